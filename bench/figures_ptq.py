"""Learned rounding (`quantize --ptq`) on the calibration draws of the rival; for figures.py."""

import statistics

from figures_run import CIFAR, json_of
from rival_common import say

DRAWS = 5
CONFIGS = ("W4A4", "W3A3", "W2A4", "W2A2")
# method: {widths: draws}; by gradient descent one is enough where it changes nothing
METHODS = {"none": dict.fromkeys(CONFIGS, DRAWS), "gram": dict.fromkeys(CONFIGS, DRAWS),
           "adaround": dict.fromkeys(CONFIGS, 1),
           "qdrop": {**dict.fromkeys(CONFIGS, 1), "W4A4": DRAWS}}


def run_ptq_learned(job):
    results = job.results("nibble_ptq_learned",
                          "ResNet-20, uniform widths, draws of 512 images, integer program, 2 "
                          "threads; keys: method/config/draw. Seconds are those of learning, "
                          "correction and freezing, after calibration")
    for method, configs in METHODS.items():
        for draw in range(DRAWS):
            for config, draws in configs.items():
                key = "%s/%s/%d" % (method, config, draw)
                if draw >= draws or results.done(key):
                    continue
                found = json_of([job.program("ptq_draws"), job.model("resnet20"), job.path(CIFAR),
                                 job.draws(), str(draw), "augmented", config, method]
                                + ([str(job.args.limit)] if job.args.limit else []))[config]
                results.put(key, {"top1": round(found["top1"], 3),
                                  "seconds": round(found["seconds"], 1),
                                  "cpu_seconds": round(found["cpu_seconds"], 1)})
                say("ptq_learned %s: %s" % (key, results.get(key)))
    summarize(results)


def summarize(results):
    table = results.value.setdefault("summary", {})
    for method in METHODS:
        for config in CONFIGS:
            rows = [results.get("%s/%s/%d" % (method, config, d)) for d in range(DRAWS)
                    if results.done("%s/%s/%d" % (method, config, d))]
            if not rows:
                continue
            top1 = [r["top1"] for r in rows]
            table["%s/%s" % (method, config)] = {
                "draws": len(rows), "mean": round(statistics.mean(top1), 3),
                "least": min(top1), "most": max(top1),
                "seconds": round(statistics.median(r["seconds"] for r in rows), 1),
                "cpu_seconds": round(statistics.median(r["cpu_seconds"] for r in rows), 1)}
    results.save()
