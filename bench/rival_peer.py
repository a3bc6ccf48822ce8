"""One post-training quantization by another tool, for searches.py: writes a JSON file with its bytes
and which test images its model gets right.

    python bench/rival_peer.py onnxruntime --model M.onnx --data DATA --weights 8 --out FILE"""

import argparse
import os

import onnxruntime

from rival_common import draw, load_cifar, top1, transform, write_json
from rival_float import logits, open_session
from rival_quantize_static import quantize
from searches_run import pack_bits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tool", choices=["onnxruntime"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", choices=["8", "4"], default="8")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    train, _ = load_cifar(args.data, "train")
    indices, _ = draw(0, len(train))
    made = os.path.join(os.path.dirname(args.out), "peer.onnx")  # its name decides the transform
    quantize(args.model, made, train[indices], "QInt" + args.weights)
    images, labels = load_cifar(args.data, "test")
    images, labels = images[:args.limit], labels[:args.limit]
    classes = logits(open_session(made), transform(images)).argmax(1)
    write_json(args.out, {"tool": "onnxruntime " + onnxruntime.__version__,
                          "top1": top1(classes, labels), "bytes": os.path.getsize(made),
                          "correct": pack_bits(classes == labels)})


main()
