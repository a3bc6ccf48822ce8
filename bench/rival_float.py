"""Float top-1 of the CIFAR-10 networks in ONNX Runtime on all test images, predictions kept.

    python bench/rival_float.py --data DATA --out bench/results/float_ort.json
"""

import argparse
import os

import numpy as np
import onnxruntime

from rival_common import (Results, cifar_files, input_transform, load_cifar, pack_predictions, say,
                          sha256, top1)

MODELS = ("resnet20", "resnet20_torch_export", "resnet32", "mlperf_resnet8")
BATCH = 100


def open_session(path, threads=2, exact=True):
    """exact: on x86 without VNNI the runtime's fast uint8 x int8 kernels add two products in 16
    bits and saturate (ResNet-20: 96.7 % agreement with the QDQ nodes as written); this setting
    makes it take the slower exact ones. Without effect on float models and on CPUs with VNNI."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def logits(session, x, batch=BATCH):
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: x[i:i + batch]})[0] for i in range(0, len(x), batch)]
    return np.concatenate(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder: cifar-10-batches-bin/, models/")
    parser.add_argument("--out", required=True, help="JSON file to add to")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    paths = {name: os.path.join(args.data, "models", name + ".onnx") for name in MODELS}
    inputs = {name: sha256([path]) for name, path in paths.items()}
    inputs["test"] = sha256(cifar_files(args.data, "test"))
    about = {"what": "float top-1 in ONNX Runtime, all test images",
             "predictions": "base64(zlib(one byte per image, in file order))",
             "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    results = Results(args.out, about, inputs)
    images, labels = load_cifar(args.data, "test")
    for name in MODELS:
        if not results.done(name):
            out = logits(open_session(paths[name], args.threads), input_transform(name)(images))
            # argmax takes the lowest index among ties, as our program does
            classes = out.argmax(1)
            correct = int((classes == labels).sum())
            results.put(name, {"top1": top1(classes, labels), "correct": correct,
                               "images": len(labels), "predictions": pack_predictions(classes)})
        say("%-24s %.2f %%" % (name, results.get(name)["top1"]))


if __name__ == "__main__":
    main()
