"""Fine-tuning figures of docs/accuracy.md: our own float networks (bench/networks.py), trained on 45,000
images, so that the 5,000 validation images that choose the best epoch are unseen; top-1 of the integer
program on the 5,000 test images.

    PY bench/accuracy.py --data DATA [--build build] [--work FOLDER] [--only NETWORK...] [--seeds 0,1,2]
                         [--widths W4A4] [--training EPOCHS[+mixup]]

Runs what bench/results/accuracy.json does not hold; an interrupted run goes on from its checkpoint."""

import argparse
import json
import os

from figures_run import TRANSFORM, Kept, delivered, timed, uniform_options
from rival_common import cifar_files, cpu_facts, sha256

# network: {(weights, activations): training}; those that one seed is enough for
PLAN = {
    "resnet8": {(4, 4): "3", (3, 3): "4", (2, 2): "8"},
    "resnet20": {(4, 4): "12+mixup", (3, 3): "12+mixup", (2, 2): "12+mixup", (1, 1): "30"},
    "dscnn": {(4, 4): "3", (8, 4): "3"},
    "mobilenet_v2_0.5": {(4, 4): "3", (8, 4): "3"},
}
WITH = {"mixup": ["--augment", "crop,flip,mixup=1", "--lr", "0.02"]}  # epochs+with
ONE_SEED = {("resnet20", 1, 1), *((name, w, 4) for name in ("dscnn", "mobilenet_v2_0.5") for w in (4, 8))}


def network(root, work, name):
    for folder in (os.path.join(root, "networks"), work):
        path = os.path.join(folder, name + ".onnx")
        if os.path.exists(path):
            return path
    return None


def run(args, nibble, cifar, model, folder, w, a, training, seed):
    epochs, _, more = training.partition("+")
    small = ["--limit", str(args.limit)] if args.limit else []
    command = [nibble, "quantize", model, "--data", cifar, *TRANSFORM, "--val", "5000", "--val-seed", "0",
               *small,
               *uniform_options(w, a), "--finetune", epochs, *WITH.get(more, []), "--seed", str(seed), "--resume",
               "--quiet", "--threads", args.threads, "-o", folder]
    _, usage = timed(command)
    with open(os.path.join(folder, "results.json")) as file:
        found = json.load(file)
    tuned = found["finetune"]
    return {"top1": round(found["quantized"]["top1"], 3),
            "float_top1": round(found["float"]["top1"], 3),
            "drop": round(found["float"]["top1"] - found["quantized"]["top1"], 3),
            "bytes": found["quantized"]["bytes"], "epochs": int(epochs),
            "first_last": found["first_last"], "residual_bits": found["residual_bits"],
            "best_epoch": tuned["best_epoch"], **delivered(tuned), **usage}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--build", default="build")
    parser.add_argument("--work", default=os.path.expanduser("~/.cache/nibble-networks"))
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--training", help="instead of the plan's: epochs, or 12+mixup")
    parser.add_argument("--widths", help="only these, such as W4A4")
    parser.add_argument("--only", nargs="*", default=list(PLAN))
    parser.add_argument("--limit", type=int, help="images of each split: a small try, not kept")
    args = parser.parse_args()
    root = os.path.dirname(os.path.abspath(__file__))
    nibble = os.path.join(os.path.abspath(args.build), "nibble")
    cifar = os.path.join(args.data, "cifar-10-batches-bin")
    results = Kept(os.path.join(root, "results", "accuracy.json"),
                   {"what": "fine-tuning; keys: network/widths/epochs+with/seed",
                    "script": "bench/accuracy.py", "cores": os.cpu_count(), **cpu_facts()},
                   {"test": sha256(cifar_files(args.data, "test"))}, not args.limit)
    seeds = args.seeds.split(",")
    todo = [(seed, name, widths) for seed in seeds for name in args.only for widths in PLAN[name]]
    single = [row for row in todo if (row[1], *row[2]) in ONE_SEED]
    for seed, name, (w, a) in [row for row in todo if row not in single] + [
            row for row in single if row[0] == seeds[0]]:
        model = network(root, args.work, name)
        if not model:
            print("%s: bench/networks.py makes it" % name, flush=True)
            continue
        training = args.training or PLAN[name][w, a]
        key = "%s/W%dA%d/%s/%s" % (name, w, a, training, seed)
        if results.done(key) or (args.widths or "W%dA%d" % (w, a)) not in key:
            continue
        folder = os.path.join(args.work, key.replace("/", "_"))
        results.put(key, run(args, nibble, cifar, model, folder, w, a, training, seed))
        print(key, results.get(key), flush=True)


main()
