"""Section `code` of figures.py: the generated C gives the integer program's outputs, bit for bit,
and the object file holds the bytes that results.json states."""

import glob
import os
import shutil
import subprocess

import numpy as np

from figures_run import json_of, quantize, timed, uniform_options
from rival_common import load_cifar, say

IMAGES = 1000
SIDE = 224
RANDOM_SHAPES = {"mlperf_kws_dscnn": (1, 49, 10)}
# mixed widths; the two networks without data here choose theirs by divergence on few samples
MIXED = ["--search", "sensitivity:refine=0"]


def random_npz(job, model):
    path = os.path.join(job.work, model + ".npz")
    if not os.path.exists(path):
        shape = RANDOM_SHAPES[model]
        x = np.random.default_rng(0).standard_normal((400,) + shape).astype(np.float32)
        np.savez(path, x=x)
    return path


def enlarged(images):
    """(n, 3, 32, 32) to (n, 224, 224, 3) by repetition: pictures, if blocky ones."""
    times = SIDE // images.shape[2]
    return images.transpose(0, 2, 3, 1).repeat(times, 1).repeat(times, 2)


def enlarged_npz(job):
    path = os.path.join(job.work, "enlarged.npz")
    if not os.path.exists(path):
        np.savez(path, x=enlarged(load_cifar(job.args.data, "train")[0][:200]))
    return path


def write_inputs(job, name, folder, path, count):
    """Raw inputs as the generated code takes them: pixels H,W,C, or random codes."""
    if name.startswith("mlperf_kws"):
        subprocess.run([job.program("program_outputs"), os.path.join(folder, "model.onnx"),
                        str(count), path, "random"], check=True)
        return
    images = load_cifar(job.args.data, "test")[0][:count]
    with open(path, "wb") as file:
        for i in range(0, len(images), 50):
            part = images[i:i + 50]
            part = enlarged(part) if name.startswith("mobilenet") else part.transpose(0, 2, 3, 1)
            file.write(np.ascontiguousarray(part).tobytes())


def section_bytes(path, tool):
    """Constants of an object file: read-only data, and tables with addresses in them."""
    text = subprocess.run([tool, "-A", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    total = 0
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith((".rodata", ".data")):
            total += int(words[1])
    return total


def object_bytes(code, work):
    """Of model.c for a Cortex-M4 where its compiler is there, else for a 32-bit or this machine."""
    out = os.path.join(work, "model.o")
    choices = [("arm-none-eabi-gcc", ["-mcpu=cortex-m4", "-mthumb"], "arm-none-eabi-size"),
               ("gcc", ["-m32"], "size"), ("gcc", [], "size")]
    for compiler, flags, size in choices:
        if not shutil.which(compiler) or not shutil.which(size):
            continue
        done = subprocess.run([compiler, "-std=c99", "-O2", *flags, "-c",
                               os.path.join(code, "model.c"), "-o", out],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return section_bytes(out, size), " ".join([compiler] + flags)
    raise SystemExit("no compiler takes model.c")


def check(job, name, folder, count):
    work = os.path.join(job.work, "code")
    code, inputs = os.path.join(work, "c"), os.path.join(work, "inputs.bin")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    model = os.path.join(folder, "model.onnx")
    facts = json_of([job.program("program_outputs"), model])
    timed(job.nibble("export", folder, "--to", "c", "--output", code))
    sources = sorted(glob.glob(os.path.join(code, "*.c")))
    binary = os.path.join(work, "model_test")
    subprocess.run(["cc", "-std=c99", "-O2", "-o", binary, *sources], check=True)
    selftest = subprocess.run([binary], stdout=subprocess.PIPE, text=True)
    write_inputs(job, name, folder, inputs, count)
    theirs, ours = os.path.join(work, "c.bin"), os.path.join(work, "program.bin")
    _, run = timed([binary, inputs, theirs])
    timed([job.program("program_outputs"), model, inputs, ours])
    a, b = (np.fromfile(path, np.uint8) for path in (theirs, ours))
    held, compiler = object_bytes(code, work)
    return {"images": count, "equal": len(a) == len(b) > 0 and bool((a == b).all()),
            "output_bytes": len(a), "different_bytes": int((a != b).sum()) if len(a) == len(b)
            else None, "distinct_outputs": len(np.unique(b.reshape(count, -1), axis=0)),
            "selftest": selftest.stdout.strip(), "bytes": facts["const_bytes"],
            "object_bytes": held, "difference": held - facts["const_bytes"], "compiler": compiler,
            "input": "pixels" if facts["pixels"] else "codes",
            "generated_c_cpu_seconds": run["cpu_seconds"]}


def run_code(job):
    results = job.results("nibble_code", "generated C against the integer program; object_bytes = "
                                         "read-only data of model.o")
    rows = [("resnet20/100K", "resnet20", ["--max-size", "100K"], None, None),
            ("resnet20/w4a4", "resnet20", uniform_options(4, 4), None, None),
            ("mlperf_resnet8/mixed", "mlperf_resnet8", ["--avg-bits", "4", *MIXED], None, None),
            ("mlperf_kws_dscnn/mixed", "mlperf_kws_dscnn", ["--avg-bits", "5", *MIXED],
             ["--data", None], []),
            ("mobilenet_v1_0.25_224_imagenet/mixed", "mobilenet_v1_0.25_224_imagenet",
             ["--avg-bits", "6", "--calib", "64", *MIXED], ["--data", None],
             ["--scale", "0.00784313725490196", "--mean", "1"])]
    for key, model, options, data, transform in rows:
        if results.done(key):
            continue
        if data:
            path = random_npz(job, model) if model in RANDOM_SHAPES else enlarged_npz(job)
            data = ["--data", path]
        name = key.split("/")[1] if model == "resnet20" else key.replace("/", "_")
        folder, _ = quantize(job, name, model, *options, data=data, transform=transform)
        count = min(IMAGES, job.args.limit or IMAGES)
        results.put(key, check(job, model, folder, count))
        say("code", key, results.get(key))
