"""Section `schemes` of figures.py: every scheme at every width that devices run, for weights (beside
8-bit activations) and for activations (beside 8-bit weights), after training and, up to 4 bits, after
one epoch of fine-tuning, on the ResNet-8 that bench/networks.py trains. First and last layer, residual
streams and biases as by default: 8, 8 and 32 bits. Section `starts`: the same network at few bits, two
epochs from the float weights and two from what learned rounding made of them."""

import json
import os

from figures_qat import tuned
from figures_run import FACTS, Kept, json_of, quantize, uniform_options
from rival_common import cifar_files, say, sha256

NETWORK = "resnet8"
ROLES = ("weights", "activations")
TUNED_BITS = 4  # wider ones are near float without training


def choices(job):
    """(role, scheme, bits) of all rows."""
    found = []
    for role in ROLES:
        for row in json_of(job.nibble("list", "schemes", "--json"))["schemes"]:
            if row[role]:
                found += [(role, row["name"], bits) for bits in
                          range(row[role]["min_bits"], row[role]["deploy_bits"] + 1)]
    return found


def options(role, scheme, bits):
    own = "%s%d" % (scheme, bits)
    widths = (own, "8") if role == "weights" else ("8", own)
    return ["--weight-bits", widths[0], "--activation-bits", widths[1], "--search", "uniform",
            "--max-size", "16M", "--val", "5000"]


def results_of(job, name, what, network):
    about = {"what": what, "script": "bench/figures.py", "cores": os.cpu_count(), **FACTS}
    inputs = {"network": sha256([network + ".onnx"]),
              "test": sha256(cifar_files(job.args.data, "test"))}
    return Kept(job.result_path(name + ".json"), about, inputs, not job.args.limit)


STARTS = ((4, 4), (3, 3), (2, 4), (2, 2))


def run_starts(job):
    network = os.path.join(job.root, "bench", "networks", NETWORK)
    results = results_of(job, "nibble_starts", "ResNet-8, `nibble quantize --search uniform --finetune 2 "
                         "--start …`; keys: widths/start", network)
    for w, a in STARTS:
        for start in ("float", "rounded"):
            key = "W%dA%d/%s" % (w, a, start)
            if results.done(key):
                continue
            folder, run = quantize(job, "starts_" + key.replace("/", "_"), network,
                                   *uniform_options(w, a), "--val", "5000", "--finetune", "2",
                                   "--start", start, "--threads", "1")
            row = tuned(folder)
            with open(os.path.join(folder, "results.json")) as file:
                found = json.load(file)
            row.update(run, before=found["finetune"]["before"],
                       losses=[round(line["loss"], 4) for line in found["finetune"]["lines"]],
                       deployed=[round(line["deployed"], 3) for line in found["finetune"]["lines"]])
            results.put(key, row)
            say("starts", key, row)


def run_schemes(job):
    network = os.path.join(job.root, "bench", "networks", NETWORK)
    if not os.path.exists(network + ".onnx"):
        say("schemes: there is no bench/networks/%s.onnx; bench/networks.py --data DATA %s makes it"
            % (NETWORK, NETWORK))
        return
    results = results_of(job, "nibble_schemes", "ResNet-8, `nibble quantize --search uniform`, and of at "
                         "most %d bits with --finetune 1; keys: tensors/scheme/bits" % TUNED_BITS, network)
    todo = choices(job)[::40] if job.args.limit else choices(job)
    for epochs in (0, 1):
        for role, scheme, bits in todo:
            key = "%s/%s/%d" % (role, scheme, bits)
            row = dict(results.get(key)) if results.done(key) else {}
            if ("top1" if epochs else "post_training") in row or (epochs and bits > TUNED_BITS):
                continue
            name = "schemes_%s_%d" % (key.replace("/", "_"), epochs)
            tune = ["--finetune", str(epochs)] if epochs else []
            folder, run = quantize(job, name, network, *options(role, scheme, bits), *tune, "--threads", "1")
            if epochs:
                row.update(tuned(folder), **run)
            else:
                row = post_training(folder)
            results.put(key, row)
            say("schemes", key, row)


def post_training(folder):
    with open(os.path.join(folder, "results.json")) as file:
        found = json.load(file)
    return {"post_training": round(found["quantized"]["top1"], 3),
            "float_top1": round(found["float"]["top1"], 3),
            "first_last": found["first_last"], "residual_bits": found["residual_bits"]}
