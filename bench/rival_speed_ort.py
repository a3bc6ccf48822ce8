"""Throughput of ONNX Runtime on the CIFAR-10 networks, float and QDQ int8 (quantize_static, uint8
activations with zero point 0 behind ReLU, int8 weights per channel). Engine qdq_exact is the same
model with the runtime's kernels that do not saturate (the same thing where the CPU has VNNI).

    python bench/rival_speed_ort.py --data DATA --out bench/results/speed_ort.json
    python bench/rival_speed_ort.py --data DATA --models resnet20 --engines qdq --batches 1 \\
        --threads 1 --rounds 1                      # one JSON line, for bench/speed.py

Every round times every combination once for --seconds; the figure is the median of the rounds, so
a neighbour's load hits all combinations alike.
"""

import argparse
import collections
import json
import os
import statistics
import tempfile
import time

import numpy as np
import onnx
import onnxruntime

from rival_common import Results, cpu_facts, input_transform, load_cifar, say, sha256
from rival_quantize_static import MODELS, cache_folder, qdq_model

WARM_UP = 3


def open_timed(path, threads, exact=False, optimized=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if exact:       # see rival_float.open_session
        options.add_session_config_entry("session.x64quantprecision", "1")
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def executed_operators(path):
    """What the runtime really runs: a QDQ model that stays in float would be no rival."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = os.path.join(folder, "optimized.onnx")
        open_timed(path, 1, optimized=optimized)
        nodes = onnx.load(optimized).graph.node
    return dict(sorted(collections.Counter(node.op_type for node in nodes).items()))


class Combination:
    def __init__(self, model, engine, batch, threads, path, images):
        self.facts = {"model": model, "engine": engine, "batch": batch, "threads": threads}
        self.session = open_timed(path, threads, engine == "qdq_exact")
        self.feed = {self.session.get_inputs()[0].name: images[:batch]}
        self.batch = batch
        self.rounds, self.cpu_rounds = [], []
        for _ in range(WARM_UP):
            self.session.run(None, self.feed)

    def round(self, seconds):
        runs, start, cpu = 0, time.perf_counter(), time.process_time()
        while True:
            self.session.run(None, self.feed)
            runs += 1
            spent = time.perf_counter() - start
            if spent >= seconds:
                break
        self.rounds.append(runs * self.batch / spent)
        self.cpu_rounds.append(runs * self.batch / (time.process_time() - cpu))

    def result(self):
        value = dict(self.facts)
        value["images_per_second"] = round(statistics.median(self.rounds), 1)
        value["best"], value["worst"] = round(max(self.rounds), 1), round(min(self.rounds), 1)
        if self.facts["threads"] == 1:      # on a busy machine the steadier figure
            value["images_per_cpu_second"] = round(statistics.median(self.cpu_rounds), 1)
        value["rounds"] = len(self.rounds)
        return value


def numbers(text):
    return [int(part) for part in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder: cifar-10-batches-bin/, models/")
    parser.add_argument("--out", help="JSON file to add to (default: only print)")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--engines", default="float,qdq,qdq_exact")
    parser.add_argument("--batches", type=numbers, default=[1, 128])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.25, help="length of one round")
    parser.add_argument("--qdq", help="a QDQ model to use instead of quantize_static's (one model)")
    parser.add_argument("--cache", help="folder for the QDQ models (default: nibble-bench in the "
                                        "temporary folder)")
    args = parser.parse_args()
    if args.qdq and "," in args.models:
        parser.error("--qdq needs exactly one of --models")
    return args


def main():
    args = arguments()
    results = None
    if args.out:
        inputs = {n: sha256([os.path.join(args.data, "models", n + ".onnx")]) for n in MODELS}
        results = Results(args.out, {"what": "ONNX Runtime throughput, images/s, median of rounds",
                                     "onnxruntime": onnxruntime.__version__,
                                     "numpy": np.__version__, **cpu_facts()}, inputs)
    images, _ = load_cifar(args.data, "test")
    todo = []
    for model in args.models.split(","):
        x = input_transform(model)(images[:max(args.batches)])
        for engine in args.engines.split(","):
            path = os.path.join(args.data, "models", model + ".onnx")
            if engine != "float":
                path = args.qdq or qdq_model(args.data, model, "w8a8_minmax",
                                             cache_folder(args.cache))
            key = "operators/%s/%s" % (model, engine)
            if results and engine != "qdq_exact" and not results.done(key):
                results.put(key, executed_operators(path))
            for batch in args.batches:
                for threads in args.threads:
                    key = "%s/%s/batch%d/threads%d" % (model, engine, batch, threads)
                    if not (results and results.done(key)):
                        todo.append((key, Combination(model, engine, batch, threads, path, x)))
    for i in range(args.rounds):
        for _, combination in todo:
            combination.round(args.seconds)
        say("round %d of %d" % (i + 1, args.rounds))
    for key, combination in todo:
        value = combination.result()
        print(json.dumps(value), flush=True)
        if results:
            results.put(key, value)


if __name__ == "__main__":
    main()
