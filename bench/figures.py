"""Our figures of docs/benchmarks.md: runs what bench/results/nibble_*.json do not hold yet.

    PY bench/figures.py --data DATA [--build build] [--work FOLDER] [SECTION...]

Sections: float ptq ptq_learned limits code qdq policies mpi sensitivity growth select demo speed train qat plan bias schemes
(default: all; speed and the seconds of the others want a quiet machine). PY has numpy, onnx and onnxruntime (bench/requirements.txt); DATA holds
cifar-10-batches-bin/ and models/. --limit N makes every section small, for a try; then nothing is
kept. What is measured, and against whom: docs/benchmarks.md, docs/accuracy.md."""

import argparse
import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from figures_code import run_code
from figures_mpi import run_mpi
from figures_ptq import run_ptq_learned
from figures_qat import run_plan, run_qat, run_train
from figures_run import (CIFAR, TRANSFORM, Job, dig, json_of, quantize, timed, uniform_options)
from figures_schemes import run_schemes, run_starts
from rival_common import load_cifar, pack_predictions, say, unpack_predictions

CONFIGS = ("W8A8", "W4A8", "W4A4", "W3A8", "W3A3", "W2A8", "W2A2")
TRACE_POLICIES, UNCACHED_POLICIES, CACHE_MIB = 1000, 50, 250
SELECT_INSTANCES = 101
SPEED_ROUNDS = 7


# ---- float accuracy

def run_float(job):
    results = job.results("nibble_float", "float top-1 of `nibble eval --engine float`")
    for model in ("resnet20", "resnet20_torch_export", "resnet32", "mlperf_resnet8"):
        if results.done(model):
            continue
        transform = ["--scale", "1"] if model == "mlperf_resnet8" else TRANSFORM
        found = json_of(job.nibble("eval", job.model(model), "--engine", "float", *job.cifar,
                                   *transform, *job.limited, "--json"))
        results.put(model, {"top1": found["top1"], "images": found["images"]})
        say("float %s %.2f" % (model, found["top1"]))


# ---- post-training quantization on the draws of the rival

def paired(job, ours, rival_key):
    """Images that only we or only the rival gets right, where its predictions are kept."""
    rival = job.rival("ptq_torch")["results"].get(rival_key, {})
    if "predictions" not in rival or job.args.limit:
        return {}
    labels = load_cifar(job.args.data, "test")[1]
    a, b = ours == labels, unpack_predictions(rival["predictions"]) == labels
    return {"only_ours_right": int((a & ~b).sum()), "only_rival_right": int((b & ~a).sum())}


def run_ptq(job):
    results = job.results("nibble_ptq", "post-training, uniform, 5 draws of 512 images, integer "
                                        "program; keys: model/ranges/config/draw")
    jobs = [("resnet20", "augmented", CONFIGS), ("resnet20", "plain", CONFIGS),
            ("resnet20_torch_export", "augmented", ("W3A3",))]
    for model, ranges, configs in jobs:
        for draw in range(5):
            todo = [c for c in configs
                    if not results.done("%s/%s/%s/%d" % (model, ranges, c, draw))]
            if not todo:
                continue
            found = json_of([job.program("ptq_draws"), job.model(model), job.path(CIFAR),
                             job.draws(), str(draw), ranges, ",".join(todo), "none"]
                            + ([str(job.args.limit)] if job.args.limit else []))
            for config, row in found.items():
                classes = np.frombuffer(row.pop("classes").encode(), np.uint8) - ord("0")
                row["top1"] = round(row["top1"], 3)
                del row["seconds"], row["cpu_seconds"]
                row.update(paired(job, classes, "reestimated/residual8/%s/%d" % (config, draw)))
                if config in ("W4A4", "W3A3") and ranges == "augmented" and model == "resnet20":
                    row["predictions"] = pack_predictions(classes)
                results.put("%s/%s/%s/%d" % (model, ranges, config, draw), row)
            say("ptq %s %s draw %d: %s" % (model, ranges, draw, {c: found[c]["top1"] for c in found}))
        summarize(job, results, model, ranges, configs)


def summarize(job, results, model, ranges, configs):
    rival = job.rival("ptq_torch")["results"]
    table = results.value.setdefault("summary", {})
    for config in configs:
        ours = [results.get("%s/%s/%s/%d" % (model, ranges, config, d))["top1"] for d in range(5)]
        row = {"mean": round(statistics.mean(ours), 3), "std": round(statistics.stdev(ours), 3)}
        theirs = [rival["reestimated/residual8/%s/%d" % (config, d)]["top1"] for d in range(5)]
        gap = [a - b for a, b in zip(ours, theirs)]
        row.update(rival_mean=round(statistics.mean(theirs), 3),
                   rival_std=round(statistics.stdev(theirs), 3),
                   difference=round(statistics.mean(gap), 3),
                   difference_std=round(statistics.stdev(gap), 3))
        table["%s/%s/%s" % (model, ranges, config)] = row
    results.save()


# ---- the main job under a limit

def limit_row(run, folder):
    found = json.load(open(os.path.join(folder, "results.json")))
    row = {"top1": dig(found, "quantized", "top1"), "float_top1": dig(found, "float", "top1"),
           "bytes": dig(found, "quantized", "bytes"),
           "bytes_onnx": dig(found, "quantized", "bytes_onnx"),
           "peak_ram": dig(found, "quantized", "peak_ram"),
           "average_weight_bits": dig(found, "quantized", "average_weight_bits"),
           "validation_loss": found["loss"], "search": found["search"]["method"],
           "trials": found["search"]["trials"], "search_seconds": found["search"]["seconds"]}
    row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    row.update(run)
    return row


def run_limits(job):
    results = job.results("nibble_limits", "`nibble quantize` under a size limit, ResNet-20, "
                                           "activations 8; keys: limit/method/rounding/seed")
    for name, options in (("100K", ["--max-size", "100K"]), ("80K", ["--max-size", "80K"]),
                          ("w8a8", uniform_options(8, 8)), ("w4a8", uniform_options(4, 8)),
                          ("w4a4", uniform_options(4, 4))):
        if not results.done("table/" + name):
            folder, run = quantize(job, name, "resnet20", *options)
            results.put("table/" + name, limit_row(run, folder))
            say("limits table/" + name, results.get("table/" + name))
    for seed, width in [(0, 2), (0, 3), (0, 4), (1, 3), (2, 3)]:
        for rounding in ("none", "gram"):
            limit_pair(job, results, seed, width, rounding)


def limit_pair(job, results, seed, width, rounding):
    """Uniform widths, and what the default search finds within their bytes; weights rounded alike."""
    key = "uniform_w%d/%s/%s/seed%d"
    uniform, auto = (key % (width, method, rounding, seed) for method in ("uniform", "auto"))
    common = ["--ptq", rounding, "--seed", str(seed)]
    if not results.done(uniform):
        folder, run = quantize(job, uniform.replace("/", "_"), "resnet20",
                               *uniform_options(width, 8), *common)
        results.put(uniform, limit_row(run, folder))
    if not results.done(auto):
        size = str(results.get(uniform)["bytes"])
        folder, run = quantize(job, auto.replace("/", "_"), "resnet20", "--max-size", size, *common)
        results.put(auto, limit_row(run, folder))
        say("limits", auto, results.get(auto))


# ---- the QDQ model in ONNX Runtime

def run_bias(job):
    results = job.results("nibble_bias", "ResNet-20, uniform weights, activations 8, biases of 8, 16 "
                                         "and 32 bits, post-training; keys: weight bits/bias bits")
    for width in (4,):
        for bits in (8, 16, 32):
            key = "w%d/b%d" % (width, bits)
            if results.done(key):
                continue
            folder, _ = quantize(job, "bias_" + key.replace("/", "_"), "resnet20",
                                 *uniform_options(width, 8), "--bias-bits", str(bits))
            found = json.load(open(os.path.join(folder, "results.json")))
            row = {name: dig(found, "quantized", name) for name in ("top1", "bytes", "bytes_onnx")}
            results.put(key, {**row, "validation_loss": round(found["loss"], 6)})
            say("bias", key, results.get(key))


def run_qdq(job):
    results = job.results("nibble_qdq", "same class in ONNX Runtime (exact kernels) as in the "
                                        "integer program, all test images")
    rows = [("resnet20/w8a8", "resnet20", uniform_options(8, 8)),
            ("resnet20/w4a4", "resnet20", uniform_options(4, 4)),
            ("resnet20/100K", "resnet20", ["--max-size", "100K"]),
            ("mlperf_resnet8/w8a8", "mlperf_resnet8", uniform_options(8, 8))]
    for key, model, options in rows:
        if results.done(key):
            continue
        name = key.split("/")[1] if model == "resnet20" else key.replace("/", "_")
        folder, _ = quantize(job, name, model, *options)
        classes = os.path.join(job.work, "classes.txt")
        own = json_of(job.nibble("eval", folder, *job.cifar, "--predictions", classes,
                                 *job.limited, "--json"))
        raw = ["--scale", "1", "--mean", "0,0,0", "--std", "1,1,1"]
        command = [sys.executable, job.script("agree_ort.py"), os.path.join(folder, "model.onnx"),
                   "--cifar", job.path(CIFAR), "--predictions", classes, *job.limited]
        found = json_of(command + (raw if model == "mlperf_resnet8" else []))
        stated = json.load(open(os.path.join(folder, "results.json")))["quantized"]
        size = os.path.getsize(os.path.join(folder, "model.onnx"))
        allowed = 1.05 * stated["bytes_onnx"] + 20 * 1024
        results.put(key, {"agreement": found["agreement"], "different": found["different"],
                          "images": found["images"], "top1": round(own["top1"], 3),
                          "ties_in_onnxruntime": found["ties_in_onnxruntime"],
                          "model_bytes": size, "bytes_onnx": stated["bytes_onnx"],
                          "allowed_bytes": round(allowed), "fits": size <= allowed})
        say("qdq", key, results.get(key))


# ---- policies per second

def record_trace(job, path):
    """The policies of a genetic search in its order, from its study."""
    size = job.rival("nibble_limits")["results"]["uniform_w3/uniform/none/seed0"]["bytes"]
    folder, _ = quantize(job, "trace", "resnet20", "--max-size", str(size),
                         "--search", "genetic", "--seed", "0")
    with open(os.path.join(folder, "results.json")) as file:
        sites = json.load(file)["policy"]
    free = [i for i, s in enumerate(sites) if s["kind"] == "weight" and not s.get("fixed")]
    study = sqlite3.connect(os.path.join(folder, "study.db"))
    rows = study.execute("SELECT policy FROM trials ORDER BY ordinal").fetchall()
    # two bytes a site, the width first
    texts = ["".join(str(row[0][2 * i]) for i in free) for row in rows][-TRACE_POLICIES:]
    with open(path, "w") as file:
        json.dump({"about": "the last policies of `nibble quantize resnet20.onnx --search genetic "
                            "--max-size %d --seed 0` in the order of scoring: bits of the free "
                            "weight sites; activations 8" % size, "policies": texts}, file,
                  indent=0)
        file.write("\n")


def run_policies(job):
    results = job.results("nibble_policies", "scoring of bench/results/trace.json on 1,000 images, "
                                             "2 threads, corrections included")
    trace = job.result_path("trace.json")
    if not os.path.exists(trace):
        record_trace(job, trace)
    rows = [("cache", TRACE_POLICIES, CACHE_MIB), ("no_cache", UNCACHED_POLICIES, 0),
            ("cache_first", UNCACHED_POLICIES, CACHE_MIB)]
    for key, count, cache in rows:
        if results.done(key):
            continue
        count = min(count, job.args.limit or count)
        results.put(key, json_of([job.program("policies"), job.model("resnet20"), job.path(CIFAR),
                                  job.draws(), trace, str(count), "2", str(cache)]))
        say("policies", key, results.get(key))


# ---- the sensitivity table

def run_sensitivity(job):
    results = job.results("nibble_sensitivity", "`nibble sensitivity`: every convolution at 1 to 8 "
                                                "bits; set-up: the same with one width")
    layers = ["--first-last", "searched", "--activation-bits", "8", "--threads", "2", "--json"]
    for key, widths in (("table", "1,2,3,4,5,6,7,8"), ("set-up", "8")):
        if results.done(key):
            continue
        text, run = timed(job.nibble("sensitivity", job.model("resnet20"), *job.cifar, *TRANSFORM,
                                     *layers, "--weight-bits", widths, *job.limited))
        found = json.loads(text)
        tensors = [t for t in found["tensors"] if t["kind"] == "weight"]
        results.put(key, {"tensors": len(tensors), "widths": len(tensors[0]["options"]),
                          "images": found["images"], **run})
        say("sensitivity", key, results.get(key))


# ---- growth

GROWTH_POLICIES, GROWTH_IMAGES = 200, 128


def growth_data(path):
    """Noise on coarse squares: a network of random weights asks for no more."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", GROWTH_IMAGES), ("val", GROWTH_IMAGES), ("test", 8)):
        x = rng.random((n, 3, 14, 14), dtype=np.float32).repeat(16, 2).repeat(16, 3) * 200
        arrays["x_" + split] = (x + rng.random(x.shape, dtype=np.float32) * 55).astype(np.uint8)
        arrays["y_" + split] = rng.integers(0, 1000, n)
    np.savez(path, **arrays)


def run_growth(job):
    results = job.results("nibble_growth", "random search on ResNet-18 of random weights at 224x224, "
                                           "2 threads, corrections included")
    if results.done("resnet18"):
        return
    model, data = (os.path.join(job.work, name) for name in ("resnet18.onnx", "resnet18.npz"))
    timed(job.nibble("new", "resnet18", "--output", model))
    growth_data(data)
    count = min(GROWTH_POLICIES, job.args.limit or GROWTH_POLICIES)
    folder = os.path.join(job.work, "growth")
    _, run = timed(job.nibble("quantize", model, "--data", data, "--search",
                              "random:trials=%d" % count, "--weight-bits", "2,4,8", "--max-size",
                              "5M", "--ptq", "none", "--threads", "2", "--output", folder))
    study = sqlite3.connect(os.path.join(folder, "study.db"))
    seconds = [row[0] for row in study.execute("SELECT seconds FROM trials ORDER BY ordinal LIMIT ?",
                                               (count,))]
    results.put("resnet18", {"policies": len(seconds), "images": 2 * GROWTH_IMAGES,
                             "policies_seconds": round(sum(seconds), 1), **run})
    say("growth", results.get("resnet18"))


# ---- exact selection

def run_select(job):
    results = job.results("nibble_select", "exact selection on seeded correlated instances "
                                           "(bench/bench_select.c), one second each at most")
    if not results.done("network"):
        results.put("network", json_of([job.program("bench_select"),
                                        str(job.args.limit or SELECT_INSTANCES), "1"]))
        say("select", results.get("network"))


# ---- the demo

def run_demo(job):
    results = job.results("nibble_demo", "`make demo` with the packages there: from a clean clone, "
                                         "and when built")
    if results.done("clean"):
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", job.root, folder], check=True)
        for key in ("clean", "again"):
            _, run = timed(["make", "-C", folder, "demo"])
            results.put(key, run)
            say("demo", key, run)


# ---- speed

def speed_round(job, engine, batch, threads):
    """(ours, theirs, theirs with exact kernels), each {rate, per CPU second}."""
    quantized = os.path.join(job.work, "w8a8") if engine == "integer" else job.model("resnet20")
    command = job.nibble("bench", quantized, "--engine", engine, "--batch", str(batch),
                         "--threads", str(threads), "--no-layers", "--json", "--seconds")
    _, start = timed(command + ["0.001"])       # start-up and two calls
    text, run = timed(command + ["1.5"])
    own = json.loads(text)["images_per_second"]
    calls = math.ceil(1.5 * own / batch)        # it stops after the call that crosses 1.5 s
    spent = run["cpu_seconds"] - start["cpu_seconds"]
    rows = [{"rate": own, "cpu": (calls - 1) * batch / spent if spent > 0 else own}]
    for rival in ("qdq", "qdq_exact") if engine == "integer" else ("float",):
        found = json_of([sys.executable, job.script("rival_speed_ort.py"), "--data", job.args.data,
                         "--models", "resnet20", "--engines", rival, "--batches", str(batch),
                         "--threads", str(threads), "--rounds", "1", "--seconds", "1.5"])
        rows.append({"rate": found["images_per_second"],
                     "cpu": found.get("images_per_cpu_second")})
    return rows


def run_speed(job):
    results = job.results("nibble_speed", "images/s, interleaved rounds on one machine: ours, ONNX "
                                          "Runtime's default and exact kernels; medians")
    quantize(job, "w8a8", "resnet20", *uniform_options(8, 8))
    for engine in ("integer", "float"):
        for batch in (1, 128):
            for threads in (1, 2):
                key = "%s/batch%d/threads%d" % (engine, batch, threads)
                if results.done(key):
                    continue
                rounds = [speed_round(job, engine, batch, threads)
                          for _ in range(job.args.rounds)]
                results.put(key, speed_row(rounds, engine, threads))
                say("speed", key, results.get(key))


def speed_row(rounds, engine, threads):
    names = ("nibble", "onnxruntime", "onnxruntime_exact")
    row = {"rounds": len(rounds), "load_average": round(os.getloadavg()[0], 2)}
    for i, name in enumerate(names[:len(rounds[0])]):
        rates = [r[i]["rate"] for r in rounds]
        row[name] = {"median": round(statistics.median(rates), 1), "best": round(max(rates), 1)}
        if i:
            ratios = [r[0]["rate"] / r[i]["rate"] for r in rounds]
            row["ratio_" + name] = round(statistics.median(ratios), 3)
            row["ratio_of_best_" + name] = round(row["nibble"]["best"] / row[name]["best"], 3)
            if threads == 1:
                cpu = [r[0]["cpu"] / r[i]["cpu"] for r in rounds]
                row["cpu_ratio_" + name] = round(statistics.median(cpu), 3)
    return row


SECTIONS = {"float": run_float, "ptq": run_ptq,
            "ptq_learned": run_ptq_learned, "limits": run_limits, "code": run_code,
            "qdq": run_qdq, "policies": run_policies,
            "mpi": run_mpi, "sensitivity": run_sensitivity, "growth": run_growth, "select": run_select, "demo": run_demo, "speed": run_speed,
            "train": run_train, "qat": run_qat, "plan": run_plan, "bias": run_bias,
            "schemes": run_schemes, "starts": run_starts}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("section", nargs="*", choices=[[], *SECTIONS], default=[])
    parser.add_argument("--data", required=True, help="folder: cifar-10-batches-bin/, models/")
    parser.add_argument("--build", default="build", help="with nibble and figures_programs built")
    parser.add_argument("--work", help="folder for models (default: nibble-figures in the "
                                       "temporary folder)")
    parser.add_argument("--limit", type=int, help="a small try; nothing is kept")
    parser.add_argument("--rounds", type=int, default=SPEED_ROUNDS, help="of speed")
    args = parser.parse_args()
    for name in args.section or SECTIONS:
        start = time.time()
        SECTIONS[name](Job(args))
        say("%s: %.0f s" % (name, time.time() - start))


if __name__ == "__main__":
    main()
