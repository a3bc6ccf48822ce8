"""Post-training quantization by Sony's model-compression-toolkit (PyTorch), for searches.py: writes a
JSON file with its bytes and which test images its simulated model gets right.

    python bench/rival_mct.py --model M.onnx --data DATA --weights 8 --out FILE

Needs torch, model-compression-toolkit and onnx. At 8 bits it is its default; below, its mixed-precision
search (8, 4 and 2 bits a layer) under the bytes of weights that uniform ones of that width have. Its
activations have 8 bits. weight_bytes: of the weights in their widths alone (its files hold floats)."""

import argparse
import operator
import time

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import fx, nn

from rival_common import draw, load_cifar, top1, transform, write_json
from searches_run import pack_bits

BATCH = 64
MIXED_BATCHES = CALIBRATION_BATCHES = 8


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def module_of(node, value):
    """The torch module of an ONNX node with constant inputs; None: a function."""
    found = attributes(node)
    constants = [torch.from_numpy(value[name].copy()) for name in node.input[1:] if name in value]
    if node.op_type == "Conv":
        w = constants[0]
        top, left, bottom, right = found.get("pads", [0, 0, 0, 0])
        if (top, left) != (bottom, right):
            raise SystemExit("%s: pads that differ between sides" % node.name)
        group = found.get("group", 1)
        made = nn.Conv2d(w.shape[1] * group, w.shape[0], tuple(w.shape[2:]), tuple(found["strides"]),
                         (top, left), groups=group, bias=len(constants) > 1)
    elif node.op_type == "BatchNormalization":
        made = nn.BatchNorm2d(len(constants[0]), eps=found.get("epsilon", 1e-5))
        made.running_mean, made.running_var = constants[2:4]
    elif node.op_type == "Gemm":
        if not found.get("transB"):
            constants[0] = constants[0].T.contiguous()
        made = nn.Linear(constants[0].shape[1], constants[0].shape[0])
    else:
        return {"Relu": nn.ReLU, "Flatten": nn.Flatten}.get(node.op_type, lambda: None)()
    made.weight = nn.Parameter(constants[0])
    if len(constants) > 1:
        made.bias = nn.Parameter(constants[1])
    return made


def torch_of(path):
    """The network of bench/networks.py as an fx graph module."""
    graph = onnx.load(path).graph
    value = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    modules, made = nn.Module(), fx.Graph()
    at = {graph.input[0].name: made.placeholder("x")}
    for i, node in enumerate(graph.node):
        module, name = module_of(node, value), "m%d" % i
        inputs = [at[n] for n in node.input if n in at]
        if node.op_type == "GlobalAveragePool":
            module = nn.AdaptiveAvgPool2d(1)
        if module is not None:
            modules.add_module(name, module)
            out = made.call_module(name, tuple(inputs))
        elif node.op_type == "Add":
            out = made.call_function(operator.add, tuple(inputs))
        else:
            raise SystemExit("%s: no torch form of %s" % (path, node.op_type))
        at[node.output[0]] = out
    made.output(at[graph.output[0].name])
    return fx.GraphModule(modules, made).eval()


def predict(model, images):
    with torch.no_grad():
        parts = [model(torch.from_numpy(transform(images[i:i + 500]))).argmax(1)
                 for i in range(0, len(images), 500)]
    return torch.cat(parts).numpy()


def quantize(model, images, bits):
    import model_compression_toolkit as mct

    def batches():
        for i in range(0, BATCH * CALIBRATION_BATCHES, BATCH):
            yield [transform(images[i:i + BATCH])]

    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    usage = mct.core.ResourceUtilization(weights_memory=weights * bits / 8) if bits < 8 else None
    core = mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(
        num_of_images=BATCH * MIXED_BATCHES)) if bits < 8 else mct.core.CoreConfig()
    made, info = mct.ptq.pytorch_post_training_quantization(
        model, batches, target_resource_utilization=usage, core_config=core)
    used = info.final_resource_utilization
    size = used.weights_memory if used and np.isfinite(used.weights_memory) else weights * bits / 8
    return made, int(size), [str(b) for b in info.mixed_precision_cfg or []]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=int, choices=[8, 4, 3, 2], default=8)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    train, _ = load_cifar(args.data, "train")
    indices, _ = draw(0, len(train))
    images, labels = load_cifar(args.data, "test")
    images, labels = images[:args.limit], labels[:args.limit]
    model = torch_of(args.model)
    before = top1(predict(model, images), labels)
    start = time.time()
    made, size, widths = quantize(model, train[indices], args.weights)
    seconds = time.time() - start
    classes = predict(made.cpu(), images)
    import model_compression_toolkit
    write_json(args.out, {"tool": "model-compression-toolkit " + model_compression_toolkit.__version__,
                          "torch": torch.__version__, "float_top1": before,
                          "top1": top1(classes, labels), "weight_bytes": size, "widths": widths,
                          "quantize_seconds": round(seconds, 2), "correct": pack_bits(classes == labels)})


main()
