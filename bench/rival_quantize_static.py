"""ONNX Runtime's own post-training quantization (quantize_static, QDQ) of the CIFAR-10 networks:
wall time, peak memory, file size, top-1 on all test images.

    python bench/rival_quantize_static.py --data DATA --out bench/results/quantize_static.json

Rows: 8-bit weights per channel and uint8 activations with min-max or percentile ranges, the same
with weights reduced to 7 bits (the runtime's advice for x86 without VNNI), and 4-bit weights
(activations 8) with min-max ranges; 512 training images, draw 0 of bench/results/draws.json, not
augmented. Each row is made in a process of its own, so that its peak memory is its own.
top1 is what the file says; top1_fast what the runtime's default kernels make of it, which saturate
on x86 without VNNI (see open_session).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from rival_common import (Results, cifar_files, cpu_facts, draw, input_transform, load_cifar,
                          pack_predictions, say, sha256, top1)
from rival_float import logits, open_session

CALIBRATION_BATCH = 32
ROWS = {"w8a8_minmax": ("QInt8", "MinMax"), "w7a8_minmax": ("QInt8", "MinMax", True),
        "w4a8_minmax": ("QInt4", "MinMax"), "w8a8_percentile": ("QInt8", "Percentile")}
MODELS = ("resnet20", "mlperf_resnet8")


def cache_folder(path=None):
    path = path or os.path.join(tempfile.gettempdir(), "nibble-bench")
    os.makedirs(path, exist_ok=True)
    return path


class Reader(quantization.CalibrationDataReader):
    def __init__(self, name, x):
        self.batches = iter({name: x[i:i + CALIBRATION_BATCH]}
                            for i in range(0, len(x), CALIBRATION_BATCH))

    def get_next(self):
        return next(self.batches, None)


def quantize(source, target, images, weights="QInt8", method="MinMax",
             reduce_range=False):
    """Writes the QDQ model. Post-ReLU tensors get zero point 0: their minimum is 0."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        model = onnx.load(source)
        if weights == "QInt4":      # the 4-bit types came with opset 21
            model = onnx.version_converter.convert_version(model, 21)
            onnx.save(model, prepared)
            source = prepared
        optimized = os.path.join(folder, "optimized.onnx")
        quant_pre_process(source, optimized, skip_symbolic_shape=True)      # folds BN, too
        x = input_transform(os.path.basename(target))(images)
        quantization.quantize_static(
            optimized, target, Reader(model.graph.input[0].name, x), per_channel=True,
            reduce_range=reduce_range,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=getattr(quantization.QuantType, weights),
            calibrate_method=getattr(quantization.CalibrationMethod, method))


def qdq_model(data, name, row, cache):
    """Path of the QDQ model in the cache folder; made if it is absent."""
    path = os.path.join(cache, "%s.%s.onnx" % (name, row))
    if not os.path.exists(path):
        images, _ = load_cifar(data, "train")
        indices, _ = draw(0, len(images))
        quantize(os.path.join(data, "models", name + ".onnx"), path + ".tmp.onnx", images[indices],
                 *ROWS[row])
        os.replace(path + ".tmp.onnx", path)
    return path


def child(args):
    """One quantization. The caller's "seconds" includes the start of Python, as a user sees it;
    the CPU seconds depend less on what else runs on the machine."""
    start = time.time()
    path = qdq_model(args.data, args.model, args.row, args.cache)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"path": path, "seconds_without_start": round(time.time() - start, 2),
                      "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                      "peak_memory_mb": round(usage.ru_maxrss * 1024 / 1e6, 1)}))


def measure(args, name, row, test, labels):
    path = os.path.join(args.cache, "%s.%s.onnx" % (name, row))
    if os.path.exists(path):
        os.remove(path)
    command = [sys.executable, os.path.abspath(__file__), "--data", args.data, "--out", args.out,
               "--cache", args.cache, "--model", name, "--row", row]
    start = time.time()
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seconds = round(time.time() - start, 2)
    if made.returncode:
        return {"failed": made.stderr.strip().splitlines()[-1][:200]}
    value = json.loads(made.stdout.strip().splitlines()[-1])
    del value["path"]
    source = os.path.join(args.data, "models", name + ".onnx")
    value.update(seconds=seconds, file_bytes=os.path.getsize(path),
                 float_file_bytes=os.path.getsize(source))
    x = input_transform(name)(test)
    try:
        exact = logits(open_session(path, args.threads), x).argmax(1)
        fast = logits(open_session(path, args.threads, exact=False), x).argmax(1)
    except Exception as error:      # the runtime's refusal of a model is a result, too
        value["failed"] = str(error).splitlines()[0][:200]
        return value
    value.update(top1=top1(exact, labels), top1_fast=top1(fast, labels),
                 fast_agrees=top1(fast, exact), predictions=pack_predictions(exact))
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder: cifar-10-batches-bin/, models/")
    parser.add_argument("--out", required=True, help="JSON file to add to")
    parser.add_argument("--cache", help="folder for the QDQ models (default: nibble-bench in the "
                                        "temporary folder)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cache = cache_folder(args.cache)
    if args.row:
        return child(args)
    inputs = {name: sha256([os.path.join(args.data, "models", name + ".onnx")]) for name in MODELS}
    inputs["train"] = sha256(cifar_files(args.data, "train"))
    inputs["test"] = sha256(cifar_files(args.data, "test"))
    about = {"what": "onnxruntime.quantization.quantize_static (QDQ), 512 training images, draw 0",
             "predictions": "base64(zlib(one byte per image, in file order))",
             "onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__,
             "numpy": np.__version__, **cpu_facts()}
    results = Results(args.out, about, inputs)
    test, labels = load_cifar(args.data, "test")
    for name in MODELS:
        for row in ROWS:
            key = "%s/%s" % (name, row)
            if not results.done(key):
                results.put(key, measure(args, name, row, test, labels))
            shown = {k: v for k, v in results.get(key).items() if k != "predictions"}
            say("%-28s %s" % (key, shown))


if __name__ == "__main__":
    main()
