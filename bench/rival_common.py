"""What the rival scripts share: CIFAR records, the networks' input transforms, calibration draws,
packed predictions and a JSON file that is written atomically. Needs numpy only."""

import base64
import hashlib
import json
import os
import sys
import tempfile
import zlib

import numpy as np

RECORD = 1 + 3 * 32 * 32            # label byte, then the R, G and B planes
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CALIBRATION_IMAGES = 512
SEEDS = (0, 1, 2, 3, 4)
PAD = 4                             # training augmentation: black border, random crop, random flip


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def cifar_files(data, split):
    folder = os.path.join(data, "cifar-10-batches-bin")
    train = ["data_batch_%d.bin" % i for i in range(1, 6)]
    names = ["test_batch.bin"] if split == "test" else train
    return [os.path.join(folder, name) for name in names]


def load_cifar(data, split):
    """uint8 images (n, 3, 32, 32) and int64 labels (n); the train batches in the order 1..5."""
    raw = b"".join(open(path, "rb").read() for path in cifar_files(data, split))
    if len(raw) % RECORD:
        raise SystemExit("%s: %d bytes are not a whole number of records" % (data, len(raw)))
    rows = np.frombuffer(raw, np.uint8).reshape(-1, RECORD)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def transform(images, scale=1 / 255, mean=MEAN, std=STD):
    """(x * scale - mean) / std per channel, float32, NCHW."""
    x = images.astype(np.float32) * np.float32(scale)
    shape = (1, 3, 1, 1)
    return (x - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)


def transform_raw(images):
    """The MLPerf Tiny ResNet-8 takes the bytes 0..255 as they are."""
    return images.astype(np.float32)


def input_transform(model_name):
    return transform_raw if "resnet8" in model_name else transform


def draw(seed, train_images):
    """One calibration draw: indices into the concatenated train batches and one augmentation code
    per image, code = (dy * 9 + dx) * 2 + flip with dy, dx in 0..8: the 32x32 window of the image
    padded by 4 black pixels starts at row dy, column dx; then it is mirrored if flip is 1."""
    rng = np.random.default_rng(seed)
    indices = rng.permutation(train_images)[:CALIBRATION_IMAGES]
    side = 2 * PAD + 1
    codes = rng.integers(0, side * side * 2, CALIBRATION_IMAGES)
    return indices, codes


def augment(images, codes):
    """Applies the augmentation codes of draw() to uint8 images."""
    out = np.empty_like(images)
    padded = np.pad(images, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)))
    for i, code in enumerate(codes):
        flip, window = int(code) & 1, int(code) >> 1
        dy, dx = divmod(window, 2 * PAD + 1)
        crop = padded[i, :, dy:dy + 32, dx:dx + 32]
        out[i] = crop[:, :, ::-1] if flip else crop
    return out


def pack_predictions(classes):
    """Predicted classes (one byte each) as base64 of zlib."""
    raw = np.asarray(classes, np.uint8).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def unpack_predictions(text):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)


def top1(classes, labels):
    return round(100.0 * float(np.mean(np.asarray(classes) == labels)), 3)


def sha256(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def cpu_facts():
    """What of the processor decides how fast and how exact the runtime's 8-bit kernels are."""
    try:
        with open("/proc/cpuinfo") as file:
            text = file.read()
    except OSError:
        return {}
    value = {}
    for line in text.splitlines():
        if line.startswith("model name"):
            value["cpu"] = line.split(":", 1)[1].strip()
    words = set(text.split())
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")
    value["isa"] = [flag for flag in known if flag in words]
    return value


def write_json(path, value):
    """Writes beside the target, then renames: a reader never sees half a file."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Results:
    """A JSON object on disk. done(key) tells what an earlier run has left; put() saves at once."""

    def __init__(self, path, about, inputs):
        """inputs: name -> hash of what the figures depend on; another hash refuses the file."""
        self.path = path
        self.value = {"about": about, "inputs": inputs, "results": {}}
        if os.path.exists(path):
            with open(path) as file:
                self.value = json.load(file)
            if self.value["inputs"] != inputs:
                raise SystemExit("%s was made from other inputs; remove it to start again" % path)
            self.value["about"] = about

    def done(self, key):
        return key in self.value["results"]

    def get(self, key):
        return self.value["results"][key]

    def put(self, key, value):
        self.value["results"][key] = value
        self.save()

    def save(self):
        write_json(self.path, self.value)
