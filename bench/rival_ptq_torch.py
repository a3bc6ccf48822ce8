"""Post-training fake quantization of ResNet-20 in PyTorch, without fine-tuning: the figures that
our post-training quantization has to reach on the same calibration images.

    /usr/bin/python3 bench/rival_ptq_torch.py --data DATA --out bench/results/ptq_torch.json

Weights: per output channel, symmetric, full range -2^(b-1)..2^(b-1)-1, scale by MSE over 100 steps
up to 1.2 max|w|. Activations: per tensor, 0..2^b-1, scale by MSE over 100 steps up to the maximum
of <= 400,000 samples per site of the float network on the 512 calibration images as they are; stem
input, branch entering an Add: signed 8 bits. Stem, last layer and the tensor after the global
average pool: 8 bits always. All scales come from the float network.

Sites   conv_input  only what enters a convolution is quantized; the residual path is float
        residual8   the stream behind Add+ReLU (and behind the stem) is unsigned 8 bits, the branch
                    that enters an Add signed 8 bits; a convolution that reads the stream at fewer
                    bits quantizes those 8-bit values once more
Affine  reestimated       BN unfolded, its statistics measured again, layer by layer in the
                          quantized network, over the same 512 images with crop and flip
        folded            BN folded into the weights before they are quantized, nothing corrected
        folded_corrected  folded; mean and variance of every output channel are matched to the float
                          network's, both measured on the images with crop and flip
"""

import argparse
import os
import struct
import time

import numpy as np
import torch
import torch.nn.functional as F

from rival_common import (SEEDS, Results, augment, cifar_files, draw, load_cifar, pack_predictions,
                          say, sha256, top1, transform, write_json)

CONFIGS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4), "W3A8": (3, 8), "W3A3": (3, 3),
           "W2A8": (2, 8), "W2A2": (2, 2)}
BLOCKS = ["layer%d.%d" % (stage, i) for stage in (1, 2, 3) for i in (0, 1, 2)]
CONVS = ["conv1"] + ["%s.conv%d" % (block, i) for block in BLOCKS for i in (1, 2)]
STEPS, SAMPLES, EPSILON, BATCH = 100, 400000, 1e-5, 20


# ---- weights out of the ONNX file (initializers only, so that no onnx package is needed)

def fields(data):
    """(number, value) of one protobuf message; value is an int or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
        else:
            size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
            yield tag >> 3, data[at:at + size]
            at += size


def read_weights(path):
    """name -> float tensor, from ModelProto.graph(7).initializer(5)."""
    weights = {}
    graph = next(value for number, value in fields(open(path, "rb").read()) if number == 7)
    for number, tensor in fields(graph):
        if number != 5:
            continue
        dims, name, kind, values = [], None, 0, None
        for part, value in fields(tensor):
            if part == 1:       # dims, packed or one by one
                dims += [value] if isinstance(value, int) else [v for v in value]
            elif part == 2:
                kind = value
            elif part == 4:     # float_data
                values = np.array(struct.unpack("<%df" % (len(value) // 4), value), np.float32)
            elif part == 8:
                name = value.decode()
            elif part == 9:     # raw_data
                values = np.frombuffer(value, "<f4") if kind == 1 else None
        if kind == 1:
            weights[name] = torch.from_numpy(values.reshape(dims).copy())
    return weights


# ---- quantizers

def fake(x, scale, low, high):
    """As torch.fake_quantize_per_tensor_affine, bit for bit, but vectorized on every build."""
    scale = torch.tensor(scale, dtype=torch.float32)
    return (x * (1 / scale)).round_().clamp_(low, high).mul_(scale)


def activation_quantizer(samples, bits, signed=False):
    low, high = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
    top = float(samples.abs().max())
    scales = [top * k / STEPS / high for k in range(1, STEPS + 1)]
    errors = [float(fake(samples, s, low, high).sub_(samples).square_().mean()) for s in scales]
    return scales[int(np.argmin(errors))], low, high


def quantize_weight(weight, bits):
    low, high = -2 ** (bits - 1), 2 ** (bits - 1) - 1
    flat = weight.flatten(1)
    top = flat.abs().amax(1, keepdim=True).clamp(min=1e-12)
    best = torch.full_like(top, float("inf"))
    scale = top / high
    for k in range(1, STEPS + 1):
        s = 1.2 * top * k / STEPS / high
        error = ((flat / s).round().clamp(low, high) * s - flat).square().sum(1, keepdim=True)
        better = error < best
        best, scale = torch.where(better, error, best), torch.where(better, s, scale)
    return ((flat / scale).round().clamp(low, high) * scale).reshape(weight.shape)


# ---- the network

def forward(x, convs, linear, site, conv_hook=None):
    """convs: name -> (weight, bias). site(name, x): quantizes or records. conv_hook(name, y): what
    follows a convolution whose affine is not known yet."""

    def conv(name, x, stride=1):
        weight, bias = convs[name]
        y = F.conv2d(x, weight, bias, stride, 1)
        return conv_hook(name, y) if conv_hook else y

    x = site("stem.stream", conv("conv1", site("conv1", x)).relu_())
    for block in BLOCKS:
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        y = conv(block + ".conv1", site(block + ".conv1", x), stride).relu_()
        y = site(block + ".branch", conv(block + ".conv2", site(block + ".conv2", y)))
        if stride == 2:         # parameter-free shortcut: every second pixel, zero channels around
            extra = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))
        x = site(block + ".stream", (x + y).relu_())
    return F.linear(site("linear", x.mean((2, 3))), *linear)


def identity(_, x):
    return x


def bn_name(conv):
    return conv.replace("conv", "bn")


def bn_affine(weights, conv, mean=None, var=None):
    """(a, c) of BN(y) = a y + c, with the file's statistics or with others."""
    prefix = bn_name(conv)
    mean = weights[prefix + ".running_mean"] if mean is None else mean
    var = weights[prefix + ".running_var"] if var is None else var
    a = weights[prefix + ".weight"] / (var + EPSILON).sqrt()
    return a, weights[prefix + ".bias"] - mean * a


def fold(weight, a, c):
    return (weight * a.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last), c


def predict(x, *net):
    parts = [forward(x[i:i + BATCH], *net).argmax(1) for i in range(0, len(x), BATCH)]
    return torch.cat(parts).numpy()


class Draw:
    """The float network's records on one draw, and everything that is derived from them."""

    def __init__(self, weights, images, seed):
        indices, codes = draw(seed, len(images))
        self.weights = weights
        self.linear = (quantize_weight(weights["linear.weight"], 8), weights["linear.bias"])
        self.plain = to_torch(images[indices])
        self.augmented = to_torch(augment(images[indices], codes))
        self.samples = {}
        self.scales = {}
        self.float_convs = {n: fold(weights[n + ".weight"], *bn_affine(weights, n)) for n in CONVS}
        self.float_statistics = None
        generator = torch.Generator().manual_seed(seed)

        def record(name, x):
            flat = x.flatten()
            if len(flat) > SAMPLES:
                flat = flat[torch.randint(len(flat), (SAMPLES,), generator=generator)]
            self.samples[name] = flat.clone()
            return x

        forward(self.plain, self.float_convs, self.linear, record)

    def quantizer(self, site, bits, signed=False):
        key = site, bits
        if key not in self.scales:
            self.scales[key] = activation_quantizer(self.samples[site], bits, signed)
        return self.scales[key]

    def sites(self, kind, bits):
        """The site function of one variant: every site's name -> its quantizer or none."""
        table = {"conv1": self.quantizer("conv1", 8, True), "linear": self.quantizer("linear", 8)}
        stream = kind == "residual8"
        for block in BLOCKS:
            table[block + ".conv2"] = self.quantizer(block + ".conv2", bits)
            if not (stream and bits == 8):      # at 8 bits the stream's own codes are read
                table[block + ".conv1"] = self.quantizer(block + ".conv1", bits)
            if stream:
                table[block + ".branch"] = self.quantizer(block + ".branch", 8, True)
                table[block + ".stream"] = self.quantizer(block + ".stream", 8)
        if stream:
            table["stem.stream"] = self.quantizer("stem.stream", 8)
        return lambda name, x: fake(x, *table[name]) if name in table else x

    def float_conv_statistics(self):
        """Mean and variance per channel of the folded convolutions, without bias, in float."""
        if self.float_statistics is None:
            self.float_statistics = {}

            def measure(name, y):
                var, mean = torch.var_mean(y, (0, 2, 3), unbiased=False)
                self.float_statistics[name] = mean - self.float_convs[name][1], var
                return y

            forward(self.augmented, self.float_convs, self.linear, identity, measure)
        return self.float_statistics

    def network(self, affine, kind, weight_bits, activation_bits):
        """(convs, linear, site) of a quantized network."""
        site = self.sites(kind, activation_bits)
        raw, known, convs = {}, {}, {}
        for name in CONVS:
            weight = self.weights[name + ".weight"]
            if affine != "reestimated":
                weight, known[name] = self.float_convs[name]
            raw[name] = quantize_weight(weight, 8 if name == "conv1" else weight_bits), None
        if affine == "folded":
            convs = {name: (raw[name][0], known[name]) for name in CONVS}
            return convs, self.linear, site
        target = self.float_conv_statistics() if affine == "folded_corrected" else None

        def correct(name, y):
            var, mean = torch.var_mean(y, (0, 2, 3), unbiased=False)
            if target is None:
                a, c = bn_affine(self.weights, name, mean, var)
            else:
                a = ((target[name][1] + EPSILON) / (var + EPSILON)).sqrt()
                c = target[name][0] - mean * a + known[name]
            convs[name] = fold(raw[name][0], a, c)
            return torch.addcmul(c.view(1, -1, 1, 1), y, a.view(1, -1, 1, 1))

        forward(self.augmented, raw, self.linear, site, correct)
        return convs, self.linear, site


def to_torch(images):
    return torch.from_numpy(transform(images)).contiguous(memory_format=torch.channels_last)


def jobs():
    """(affine, sites, config) in the order in which they are worth having."""
    for config in CONFIGS:
        yield "reestimated", "residual8", config
    first = ("W4A4", "W3A3")
    for config in first:
        yield "reestimated", "conv_input", config
    for affine in ("folded_corrected", "folded"):
        yield affine, "residual8", "W3A3"
    for config in CONFIGS:
        if config not in first:
            yield "reestimated", "conv_input", config


def write_draws(path, train_images, train_hash):
    value = {"about": "calibration draws: indices into data_batch_1..5 in this order; augmentation "
                      "code = (dy * 9 + dx) * 2 + flip, dy and dx in 0..8 within the image padded "
                      "by 4 black pixels, the crop first, then the mirror",
             "train_images": train_images, "train_sha256": train_hash, "draws": {}}
    for seed in SEEDS:
        indices, codes = draw(seed, train_images)
        value["draws"][str(seed)] = {"indices": " ".join(map(str, indices.tolist())),
                                     "augmentation": " ".join(map(str, codes.tolist()))}
    write_json(path, value)


def summarize(results):
    table = {}
    for affine, kind, config in jobs():
        key = "%s/%s/%s" % (affine, kind, config)
        got = [results.get("%s/%d" % (key, seed))["top1"] for seed in SEEDS
               if results.done("%s/%d" % (key, seed))]
        if got:
            table[key] = {"mean": round(float(np.mean(got)), 3), "draws": len(got),
                          "std": round(float(np.std(got, ddof=1)), 3) if len(got) > 1 else None}
    results.value["summary"] = table
    results.save()
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="folder: cifar-10-batches-bin/, models/")
    parser.add_argument("--out", required=True, help="JSON file to add to")
    parser.add_argument("--draws", help="draws.json to write (default: beside --out)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.set_grad_enabled(False)
    model = os.path.join(args.data, "models", "resnet20.onnx")
    train_hash = sha256(cifar_files(args.data, "train"))
    inputs = {"resnet20": sha256([model]), "train": train_hash,
              "test": sha256(cifar_files(args.data, "test"))}
    about = {"what": "PyTorch fake quantization of ResNet-20 after training, all test images",
             "keys": "affine/sites/config/draw, see bench/rival_ptq_torch.py",
             "predictions": "base64(zlib(one byte per image, in file order))",
             "torch": torch.__version__, "numpy": np.__version__}
    results = Results(args.out, about, inputs)
    weights = read_weights(model)
    train, _ = load_cifar(args.data, "train")
    test, labels = load_cifar(args.data, "test")
    x = to_torch(test)
    write_draws(args.draws or os.path.join(os.path.dirname(args.out) or ".", "draws.json"),
                len(train), train_hash)
    if not results.done("float"):
        convs = {n: fold(weights[n + ".weight"], *bn_affine(weights, n)) for n in CONVS}
        linear = weights["linear.weight"], weights["linear.bias"]
        classes = predict(x, convs, linear, identity)
        results.put("float", {"top1": top1(classes, labels)})
    say("float %.2f" % results.get("float")["top1"])
    draws = {}
    for affine, kind, config in jobs():
        for seed in map(int, args.seeds.split(",")):
            key = "%s/%s/%s/%d" % (affine, kind, config, seed)
            if results.done(key):
                continue
            start = time.time()
            if seed not in draws:
                draws[seed] = Draw(weights, train, seed)
            classes = predict(x, *draws[seed].network(affine, kind, *CONFIGS[config]))
            value = {"top1": top1(classes, labels)}
            if affine == "reestimated" and kind == "residual8" and config in ("W4A4", "W3A3"):
                value["predictions"] = pack_predictions(classes)
            results.put(key, value)
            summarize(results)
            say("%-42s %6.2f  (%.1f s)" % (key, value["top1"], time.time() - start))
    for key, row in summarize(results).items():
        say("%-40s %6.2f +- %s" % (key, row["mean"], row["std"]))


if __name__ == "__main__":
    main()
