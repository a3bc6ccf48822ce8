"""Training speed in PyTorch: float, and with quantization in the loop, the figures that ours stand
beside. ResNet-20, and MobileNetV2-0.5 as `nibble new mobilenet_v2 --width 0.5` makes it.

    /usr/bin/python3 bench/rival_train_torch.py --out bench/results/train_torch.json
    PY bench/rival_train_torch.py --compiled --out bench/results/train_torch_current.json

A fixed batch of 128 (no loading), channels last, SGD with momentum 0.9 and weight decay; median of the
steps' times, and the processor's time per step, which says something on a busy machine, too. Each row
is a process of its own, whose peak of memory is its own. Weights per output channel, activations per
tensor, at the sites of rival_ptq_torch.py's residual8.
float   no quantization
fused   torch.ao.quantization.FusedMovingAvgObsFakeQuantize on weights and activations, 8 bits
lsq     learned steps (Esser et al. 2020) as an autograd function, 4 bits
--compiled adds rows of torch.compile's default (a PyTorch of version 2), float and lsq; compiling is not timed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.ao.quantization import (FusedMovingAvgObsFakeQuantize, MovingAverageMinMaxObserver,
                                   MovingAveragePerChannelMinMaxObserver)

from rival_common import Results, say

BATCH = 128


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, step, low, high, scale):
        ctx.save_for_backward(x, step)
        ctx.range = low, high, scale
        return (x / step).round().clamp(low, high) * step

    @staticmethod
    def backward(ctx, g):
        x, step = ctx.saved_tensors
        low, high, scale = ctx.range
        v = x / step
        inside = (v >= low) & (v <= high)
        slope = torch.where(inside, v.round() - v, v.clamp(low, high))
        gs = (g * slope * scale)
        gs = gs.sum(tuple(range(1, gs.dim()))).reshape(step.shape) if step.numel() > 1 else gs.sum()
        return g * inside, gs.reshape(step.shape), None, None, None


class Lsq(torch.nn.Module):
    def __init__(self, bits, channels=0, signed=False):
        super().__init__()
        self.low, self.high = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed or channels else \
            (0, 2 ** bits - 1)
        shape = (channels, 1, 1, 1) if channels else (1,)
        self.step = torch.nn.Parameter(torch.full(shape, 0.05))

    def forward(self, x):
        n = x.numel() / self.step.numel()
        return Round.apply(x, self.step, self.low, self.high, (n * self.high) ** -0.5)


def quantizer(kind, channels=0, signed=False):
    if kind == "float":
        return torch.nn.Identity()
    if kind == "lsq":
        return Lsq(4, channels, signed)
    if channels:
        return FusedMovingAvgObsFakeQuantize(
            MovingAveragePerChannelMinMaxObserver, quant_min=-128, quant_max=127,
            dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    return FusedMovingAvgObsFakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255,
                                         dtype=torch.quint8)


class Conv(torch.nn.Conv2d):
    def __init__(self, kind, n, m, stride, kernel=3, groups=1):
        super().__init__(n, m, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.fq = quantizer(kind, m)

    def forward(self, x):
        return self._conv_forward(x, self.fq(self.weight), None)


class Block(torch.nn.Module):
    def __init__(self, kind, n, m, stride):
        super().__init__()
        self.stride, self.extra = stride, m - n
        self.conv1, self.bn1 = Conv(kind, n, m, stride), torch.nn.BatchNorm2d(m)
        self.conv2, self.bn2 = Conv(kind, m, m, 1), torch.nn.BatchNorm2d(m)
        self.inner, self.mid = quantizer(kind), quantizer(kind)
        self.branch, self.stream = quantizer(kind, signed=True), quantizer(kind)

    def forward(self, x):
        y = self.mid(F.relu(self.bn1(self.conv1(self.inner(x)))))
        y = self.branch(self.bn2(self.conv2(y)))
        if self.extra:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        return self.stream(F.relu(x + y))


class ResNet20(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.input, self.stem, self.pooled = (quantizer(kind, signed=True), quantizer(kind),
                                              quantizer(kind))
        self.conv, self.bn = Conv(kind, 3, 16, 1), torch.nn.BatchNorm2d(16)
        blocks, n = [], 16
        for m in (16, 32, 64):
            for i in range(3):
                blocks.append(Block(kind, n, m, 2 if m != n else 1))
                n = m
        self.blocks, self.linear = torch.nn.Sequential(*blocks), torch.nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(self.stem(F.relu(self.bn(self.conv(self.input(x))))))
        return self.linear(self.pooled(x.mean((2, 3))))


def width(channels):
    """Half of it in multiples of 8, as MobileNets round."""
    half = max(8, (channels // 2 + 4) // 8 * 8)
    return half + 8 if half < 0.9 * channels / 2 else half


class Layer(torch.nn.Module):
    def __init__(self, kind, n, m, stride=1, kernel=1, groups=1, relu=True):
        super().__init__()
        self.conv, self.bn = Conv(kind, n, m, stride, kernel, groups), torch.nn.BatchNorm2d(m)
        self.relu, self.fq = relu, quantizer(kind, signed=not relu)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.fq(F.relu6(y) if self.relu else y)


class Inverted(torch.nn.Module):
    def __init__(self, kind, n, m, expand, stride):
        super().__init__()
        inner = n * expand
        layers = [Layer(kind, n, inner)] if expand != 1 else []
        layers += [Layer(kind, inner, inner, stride, 3, inner), Layer(kind, inner, m, relu=False)]
        self.layers, self.skip = torch.nn.Sequential(*layers), stride == 1 and n == m
        self.inner = quantizer(kind, signed=True)
        self.stream = quantizer(kind, signed=True) if self.skip else None

    def forward(self, x):
        y = self.layers(self.inner(x))
        return self.stream(x + y) if self.skip else y


class MobileNetV2(torch.nn.Module):
    STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, kind):
        super().__init__()
        n = width(32)
        blocks = [Layer(kind, 3, n, 1, 3)]
        for expand, channels, repeat, stride in self.STAGES:
            for i in range(repeat):
                blocks.append(Inverted(kind, n, width(channels), expand, 1 if i else stride))
                n = width(channels)
        blocks.append(Layer(kind, n, 1280))
        self.input, self.pooled = quantizer(kind, signed=True), quantizer(kind)
        self.blocks, self.drop = torch.nn.Sequential(*blocks), torch.nn.Dropout(0.2)
        self.linear = torch.nn.Linear(1280, 10)

    def forward(self, x):
        x = self.pooled(self.blocks(self.input(x)).mean((2, 3)))
        return self.linear(self.drop(x))


NETWORKS = {"": ResNet20, "mobilenet_v2_0.5/": MobileNetV2}


def measure(network, kind, seconds):
    kind, _, compiled = kind.partition("_")
    net = NETWORKS[network](kind).to(memory_format=torch.channels_last).train()
    if compiled:
        net = torch.compile(net)
    x = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    target = torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.SGD(net.parameters(), 0.001, 0.9, weight_decay=1e-4)
    times, busy = [], []
    while len(times) < 8 or sum(times[3:]) < seconds:
        start, cpu = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), target).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_second": round(BATCH / statistics.median(times[3:]), 1),
            "cpu_seconds_per_step": round(statistics.median(busy[3:]), 4),
            "peak_memory_mb": round(peak, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--row", help="measures this one and prints it")
    args = parser.parse_args()
    if args.row:
        torch.set_num_threads(args.threads)
        torch.set_flush_denormal(True)
        torch.manual_seed(0)
        network, kind = args.row.rpartition("/")[0], args.row.rpartition("/")[2]
        print(json.dumps(measure(network + "/" * bool(network), kind, args.seconds)))
        return
    results = Results(args.out, {"what": "training images per second, batch 128; keys: network/kind, "
                                         "ResNet-20's without a network",
                                 "torch": torch.__version__, "threads": args.threads,
                                 "script": "bench/rival_train_torch.py"}, {})
    for network in NETWORKS:
        for kind in ("float", "fused", "lsq") + ("float_compiled", "lsq_compiled") * args.compiled:
            key = network + kind
            if results.done(key) and "peak_memory_mb" in results.get(key):
                continue
            out = subprocess.run([sys.executable, __file__, "--row", key, "--threads",
                                  str(args.threads), "--seconds", str(args.seconds)], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
            results.put(key, json.loads(out))
            say(key, results.get(key))


if __name__ == "__main__":
    main()
