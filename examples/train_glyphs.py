#!/usr/bin/env python3
"""Trains examples/glyphs.onnx, the small float CNN for builtin:glyphs (PyTorch 1.13, CPU).

    cmake -S . -B build && cmake --build build --target dump_glyphs
    mkdir -p /tmp/glyphs && build/dump_glyphs /tmp/glyphs
    python3 examples/train_glyphs.py /tmp/glyphs examples/glyphs.onnx

Test top-1 of the committed network (24 epochs): float 95.30; weights rounded naively, symmetric
min-max per output channel, to 8 bits 95.25, 6: 95.35, 5: 95.30, 4: 94.35, 3: 76.40, 2: 12.30.

The product itself never needs Python: the network is committed. It keeps Conv and
BatchNormalization apart, and its metadata says how bytes become its input
(nibble.scale, nibble.mean, nibble.std).
"""
import argparse
import random
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

MEAN, STD = 0.5, 0.25  # one value for all channels
WIDTHS = (16, 32, 40)


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.short = None
        if stride != 1 or cin != cout:
            self.short = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False),
                                       nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.short is None else self.short(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        a, b, c = WIDTHS
        self.conv = nn.Conv2d(3, a, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(a)
        self.block1 = Block(a, a, 1)
        self.block2 = Block(a, b, 2)
        self.block3 = Block(b, c, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


def load(path):
    records = np.fromfile(path, np.uint8).reshape(-1, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(records[:, 0].astype(np.int64))


def normalise(images):
    return (images.float() / 255 - MEAN) / STD


def shift(images, pad=2):
    """A random shift of up to `pad` pixels, one for the whole batch."""
    big = F.pad(images.float(), (pad,) * 4, mode="replicate")
    y, x = random.randint(0, 2 * pad), random.randint(0, 2 * pad)
    return big[:, :, y:y + 32, x:x + 32]


def top1(net, images, labels):
    net.eval()
    right = 0
    with torch.no_grad():
        for i in range(0, len(images), 500):
            right += (net(normalise(images[i:i + 500])).argmax(1) == labels[i:i + 500]).sum().item()
    return 100 * right / len(images)


def round_weights(net, bits):
    """Naive symmetric per-channel rounding (min-max), no correction of any kind."""
    top = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                w = module.weight
                axes = tuple(range(1, w.dim()))
                scale = w.abs().amax(axes, keepdim=True).clamp_min(1e-12) / top
                w.copy_((w / scale).round().clamp(-top, top) * scale)


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def metadata(key, value):
    """One ModelProto.metadata_props entry (field 14); protobuf merges what is appended."""
    text = b"".join(tag + varint(len(s)) + s for tag, s in ((b"\x0a", key.encode()),
                                                            (b"\x12", value.encode())))
    return b"\x72" + varint(len(text)) + text


def split_biases(net):
    """Two BN biases that meet in an Add learn the same values, and the exporter would share them
    through Identity nodes; divided unevenly they are two tensors with the same sum."""
    with torch.no_grad():
        for block in (net.block2, net.block3):
            quarter = block.bn2.bias / 4
            block.bn2.bias -= quarter
            block.short[1].bias += quarter


def export(net, path):
    net.eval()
    split_biases(net)
    torch.onnx.export(net, torch.zeros(1, 3, 32, 32), path, opset_version=13,
                      input_names=["image"], output_names=["logits"],
                      dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    with open(path, "ab") as f:
        f.write(metadata("nibble.scale", repr(1 / 255)))
        f.write(metadata("nibble.mean", ",".join([str(MEAN)] * 3)))
        f.write(metadata("nibble.std", ",".join([str(STD)] * 3)))


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("images", help="folder written by dump_glyphs")
    args.add_argument("onnx", help="the file to write")
    args.add_argument("--epochs", type=int, default=24)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    random.seed(1)
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    images, labels = load(args.images + "/data_batch_1.bin")
    val, val_labels = load(args.images + "/val.bin")
    net = Net().to(memory_format=torch.channels_last)
    batch, steps = 128, len(images) // 128
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True,
                                weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, args.epochs * steps)
    start = time.time()
    for epoch in range(args.epochs):
        net.train()
        order, total = torch.randperm(len(images)), 0.0
        for i in range(steps):
            take = order[i * batch:(i + 1) * batch]
            x = normalise(shift(images[take])).to(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(x), labels[take])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print("epoch %2d  loss %.4f  val top-1 %.2f  %.0f s" % (
            epoch + 1, total / steps, top1(net, val, val_labels), time.time() - start), flush=True)
    export(net, args.onnx)
    test, test_labels = load(args.images + "/test_batch.bin")
    print("float: test top-1 %.2f" % top1(net, test, test_labels))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for bits in (8, 6, 5, 4, 3, 2):
        net.load_state_dict(state)
        round_weights(net, bits)
        print("weights rounded to %d bits: test top-1 %.2f" % (bits, top1(net, test, test_labels)))


if __name__ == "__main__":
    main()
