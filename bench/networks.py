"""Trains the float networks that the comparisons use: CIFAR-10, 45,000 training images, so that the
5,000 validation images are unseen by weights and policies alike; seed 0, one thread each.

    PY bench/networks.py --data DATA [--build build] [--work FOLDER] [NAME...]

An interrupted training goes on from its checkpoint in FOLDER. Small networks are kept in
bench/networks/, what was measured in bench/results/networks.json."""

import argparse
import json
import os
import shutil
import subprocess
import sys

from figures_run import TRANSFORM, timed
from rival_common import Results, cifar_files, cpu_facts, sha256

# name: (architecture options, epochs, training options, kept in the repository)
NETWORKS = {
    "resnet8": (["resnet8"], 60, ["--lr", "0.1", "--weight-decay", "2e-4", "--warmup", "1"], True),
    "resnet20": (["resnet20"], 80, ["--lr", "0.1", "--weight-decay", "5e-4", "--warmup", "1"], True),
    "dscnn": (["dscnn"], 20, ["--lr", "0.1", "--weight-decay", "1e-4", "--warmup", "1"], True),
    "mobilenet_v2_0.5": (["mobilenet_v2", "--width", "0.5"], 10,
                         ["--lr", "0.1", "--weight-decay", "2e-4", "--warmup", "1"], True),
    "vgg_small_0.5": (["vgg_small", "--width", "0.5"], 6,
                      ["--lr", "0.05", "--weight-decay", "5e-4", "--warmup", "1"], False),
}
SHAPE = ["--input", "3x32x32", "--classes", "10"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--build", default="build")
    parser.add_argument("--work", default=os.path.expanduser("~/.cache/nibble-networks"))
    parser.add_argument("--threads", default="1")
    parser.add_argument("name", nargs="*")
    args = parser.parse_args()
    root = os.path.dirname(os.path.abspath(__file__))
    kept = os.path.join(root, "networks")
    nibble = os.path.join(os.path.abspath(args.build), "nibble")
    cifar = os.path.join(args.data, "cifar-10-batches-bin")
    results = Results(os.path.join(root, "results", "networks.json"),
                      {"what": "float networks of `nibble new` and `nibble train`, 45,000 images",
                       "script": "bench/networks.py", "cores": os.cpu_count(), **cpu_facts()},
                      {"train": sha256(cifar_files(args.data, "train"))})
    os.makedirs(args.work, exist_ok=True)
    for name in args.name or NETWORKS:
        if results.done(name):
            continue
        arch, epochs, options, small = NETWORKS[name]
        start, out = (os.path.join(args.work, name + end) for end in ("_0.onnx", ".onnx"))
        subprocess.run([nibble, "new", *arch, *SHAPE, "-o", start, "--quiet"], check=True,
                       stdout=sys.stderr)
        text, run = timed([nibble, "train", start, "--data", cifar, *TRANSFORM, "--val", "5000",
                           "--epochs", str(epochs), *options, "--augment", "crop,flip", "--resume",
                           "--threads", args.threads, "-o", out, "--json"])
        found = json.loads(text)
        if found["epochs"] < epochs:  # stopped on request: the same command goes on
            print("%s: %d of %d epochs" % (name, found["epochs"], epochs), flush=True)
            return
        row = {key: found[key] for key in ("top1", "epochs", "images_per_second") if key in found}
        row.update(options=options, architecture=arch, planned_epochs=epochs, seed=0,
                   wall_seconds=run["wall_seconds"])
        if small:
            os.makedirs(kept, exist_ok=True)
            shutil.copy(out, os.path.join(kept, name + ".onnx"))
        results.put(name, row)
        print(name, row, flush=True)


main()
