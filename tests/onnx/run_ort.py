"""Runs a model in ONNX Runtime: run_ort.py MODEL.onnx X.npy Y.npy"""

import sys

import numpy as np
import onnxruntime


def main():
    model, x, y = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # without VNNI the fast uint8 kernels add in 16 bits and saturate; this takes the exact ones
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model, options)
    name = session.get_inputs()[0].name
    np.save(y, session.run(None, {name: np.load(x)})[0].astype(np.float32))


if __name__ == "__main__":
    main()
