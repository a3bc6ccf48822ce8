"""How often our predictions agree with ONNX Runtime on the same model file.

    python bench/agree_ort.py MODEL.onnx --cifar DATA/cifar-10-batches-bin --predictions FILE

FILE holds our predicted class of every test image, one integer per line, in file order. MODEL is a
float or a QDQ model whose first output has one score per class. The input is (x * scale - mean) /
std per channel; --scale 1 --mean 0,0,0 --std 1,1,1 for networks that take bytes. Prints one JSON
object; exits 1 if --at-least PERCENT is given and missed.
"""

import argparse
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime

from rival_common import MEAN, STD, load_cifar, top1, transform
from rival_float import logits, open_session

SHOWN = 20


def triple(text):
    values = tuple(float(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError("want three numbers r,g,b")
    return values


def read_predictions(path):
    with open(path) as file:
        return np.array([int(line) for line in file.read().split()])


def model_facts(path):
    """Size of the file and of its initializers; all CIFAR-10 networks keep them inside."""
    model = onnx.load(path)
    weights = sum(len(tensor.SerializeToString()) for tensor in model.graph.initializer)
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return {"file_bytes": os.path.getsize(path), "initializer_bytes": weights, "opset": opset,
            "nodes": len(model.graph.node)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--cifar", required=True, help="the folder cifar-10-batches-bin")
    parser.add_argument("--predictions", required=True, help="our classes, one integer per line")
    parser.add_argument("--scale", type=float, default=1 / 255)
    parser.add_argument("--mean", type=triple, default=MEAN)
    parser.add_argument("--std", type=triple, default=STD)
    parser.add_argument("--limit", type=int, help="only the first N test images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-fusion", action="store_true",
                        help="run the QDQ nodes as written, without the runtime's int8 kernels")
    parser.add_argument("--fast", action="store_true",
                        help="the runtime's default kernels, which saturate on x86 without VNNI")
    parser.add_argument("--at-least", type=float, help="exit 1 below this agreement in percent")
    args = parser.parse_args()
    images, labels = load_cifar(os.path.dirname(os.path.abspath(args.cifar)), "test")
    images, labels = images[:args.limit], labels[:args.limit]
    ours = read_predictions(args.predictions)[:args.limit]
    if len(ours) != len(labels):
        parser.error("%s: %d predictions, %d images" % (args.predictions, len(ours), len(labels)))
    if args.no_fusion:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(args.model, options,
                                               providers=["CPUExecutionProvider"])
    else:
        session = open_session(args.model, args.threads, exact=not args.fast)
    scores = logits(session, transform(images, args.scale, args.mean, args.std))
    scores = scores.reshape(len(labels), -1)
    theirs = scores.argmax(1)
    differ = np.flatnonzero(theirs != ours)
    ordered = np.sort(scores, 1)
    value = {"images": len(labels), "agreement": round(100.0 * float(np.mean(theirs == ours)), 3),
             "different": len(differ), "first_different": differ[:SHOWN].tolist(),
             # equal best scores: which class wins is a convention, here the lowest index
             "ties_in_onnxruntime": int((ordered[:, -1] == ordered[:, -2]).sum()),
             "different_at_ties": int((ordered[differ, -1] == ordered[differ, -2]).sum()),
             "top1_ours": top1(ours, labels), "top1_onnxruntime": top1(theirs, labels),
             "onnxruntime": onnxruntime.__version__}
    value.update(model_facts(args.model))
    print(json.dumps(value))
    if args.at_least is not None and value["agreement"] < args.at_least:
        print("agreement %.3f %% is below %.3f %%" % (value["agreement"], args.at_least),
              file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
