"""A QDQ model made by onnxruntime.quantization.quantize_static from a CIFAR-10 network, the test
images as the network takes them, and what ONNX Runtime makes of them.

    python make_static_qdq.py MODEL CIFAR_FOLDER OUT_FOLDER raw|unit ACTIVATIONS WEIGHTS CHANNEL
"""

import os
import sys

import numpy as np
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION, TEST = 64, 500


class Reader(quantization.CalibrationDataReader):
    def __init__(self, name, x):
        self.batches = iter({name: x[i:i + 16]} for i in range(0, len(x), 16))

    def get_next(self):
        return next(self.batches, None)


def images(folder, file, count, form):
    raw = np.fromfile(os.path.join(folder, file), np.uint8, count * 3073).reshape(-1, 3073)
    x = raw[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)
    if form == "raw":
        return x
    mean = np.float32([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = np.float32([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    return (x / 255 - mean) / std


def main():
    model, cifar, out, form, activations, weights, channel = sys.argv[1:]
    prepared, made = os.path.join(out, "prepared.onnx"), os.path.join(out, "static.onnx")
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    name = onnxruntime.InferenceSession(prepared).get_inputs()[0].name
    quantization.quantize_static(
        prepared, made, Reader(name, images(cifar, "data_batch_1.bin", CALIBRATION, form)),
        quant_format=quantization.QuantFormat.QDQ, per_channel=channel == "channel",
        activation_type=getattr(quantization.QuantType, activations),
        weight_type=getattr(quantization.QuantType, weights))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # without VNNI the fast uint8 kernels add in 16 bits and saturate; this takes the exact ones
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(made, options)
    x = images(cifar, "test_batch.bin", TEST, form)
    y = np.concatenate([session.run(None, {name: x[i:i + 50]})[0] for i in range(0, TEST, 50)])
    np.save(os.path.join(out, "x.npy"), x)
    np.save(os.path.join(out, "y.npy"), y.astype(np.float32))


if __name__ == "__main__":
    main()
