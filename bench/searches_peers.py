"""Section `peers` of searches.py: other tools on the same network and images, each in a process of
its own, beside our run at no more bytes."""

import json
import os
import sys

def peer(bench, name, command, widths):
    def make(key):
        folder = bench.folder(key)
        out = os.path.join(folder, "made.json")
        _, used = bench.child([command[0], os.path.join(bench.root, command[1]), *command[2:],
                               "--model", bench.network(name), "--data", bench.args.data,
                               "--weights", str(widths), "--out", out,
                               *bench.set["images"]], folder)
        with open(out) as file:
            row = json.load(file)
        row.update(used)
        return row
    return make


def ours(bench, name, widths):
    return lambda key: bench.quantize(key, name, 0, "--weight-bits", str(widths), "--activation-bits",
                                      "8", "--search", "uniform", "--max-size", "16M", "--calib",
                                      "512")


def run_peers(bench):
    tasks = []
    for name in bench.set["networks"][:2]:
        if not bench.has(name):
            continue
        for widths in (8, 4):
            tasks.append(("peers/%s/w%d/nibble/0" % (name, widths), ours(bench, name, widths)))
            tasks.append(("peers/%s/w%d/onnxruntime/0" % (name, widths),
                          peer(bench, name, [sys.executable, "rival_peer.py", "onnxruntime"], widths)))
            if bench.args.torch:
                tasks.append(("peers/%s/w%d/mct/0" % (name, widths),
                              peer(bench, name, [bench.args.torch, "rival_mct.py"], widths)))
    bench.run(tasks)
