"""Section `qat` of figures.py: fine-tuning with quantization in the loop, three epochs from the given
networks, on the integer program; section `train`: training speed beside PyTorch
(bench/rival_train_torch.py writes train_torch.json); section `plan`: from a graph to a plan."""

import json
import os

from figures_run import delivered, json_of, quantize, uniform_options
from rival_common import say

QAT_MODELS = ("resnet20", "resnet20_torch_export")
QAT_WIDTHS = ((2, 2), (3, 3), (4, 4))
EPOCHS = 3


def tuned(folder):
    with open(os.path.join(folder, "results.json")) as file:
        found = json.load(file)
    return {"top1": round(found["quantized"]["top1"], 3),
            "float_top1": round(found["float"]["top1"], 3), "bytes": found["quantized"]["bytes"],
            "epochs": found["finetune"]["epochs"], "best_epoch": found["finetune"]["best_epoch"],
            "seconds": round(found["finetune"]["seconds"], 1),
            "images_per_second": round(found["finetune"]["images_per_second"], 1),
            **delivered(found["finetune"])}


def run_qat(job):
    results = job.results("nibble_qat", "`nibble quantize --search uniform --finetune 3`; keys: "
                                        "model/widths/seed")
    for model in QAT_MODELS:
        for w, a in QAT_WIDTHS:
            key = "%s/W%dA%d/0" % (model, w, a)
            if results.done(key):
                continue
            folder, run = quantize(job, "qat_" + key.replace("/", "_"), model,
                                   *uniform_options(w, a), "--finetune", str(EPOCHS), "--threads", "1")
            row = tuned(folder)
            row.update(run)
            results.put(key, row)
            say("qat", key, row)


TRAIN_ROWS = (("float", "resnet20", "float"), ("w4a4_lsq", "resnet20", "4x4"),
              ("mobilenet_v2_0.5/float", "mobilenet_v2:0.5", "float"),
              ("mobilenet_v2_0.5/w4a4_lsq", "mobilenet_v2:0.5", "4x4"))


def run_train(job):
    """Whole steps on a fixed batch, two threads: what rival_train_torch.py does. The processor's time
    per step says something on a busy machine, too."""
    results = job.results("nibble_train", "bench_train: whole steps at batch 128; keys: network/kind, "
                                          "ResNet-20's without a network")
    for key, network, kind in TRAIN_ROWS:
        if results.done(key) and "cpu_seconds_per_step" in results.get(key):
            continue
        row = json_of([job.program("bench_train"), network, "128", "2", kind, "20"])
        row["load_average"] = round(os.getloadavg()[0], 2)
        results.put(key, row)
        say("train", key, row)

def run_plan(job):
    results = job.results("nibble_plan", "bench_specialize: CPU milliseconds, one thread, batch 32, "
                                         "medians over graphs that the process has not met; seen: "
                                         "the same graphs again")
    if results.done("resnet20"):
        return
    results.put("resnet20", json_of([job.program("bench_specialize"), "1", "32"]))
    say("plan", results.get("resnet20"))
