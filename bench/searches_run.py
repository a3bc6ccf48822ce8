"""What the sections of searches.py share: settings, tasks that survive a kill, `nibble` as a child."""

import base64
import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import zlib

import numpy as np

from figures_run import CIFAR, TRANSFORM
from rival_common import Results, cifar_files, cpu_facts, load_cifar, say, sha256, write_json

THREADS = 1  # of every child: what trains depends on it in its last bits

# total: epochs of training per arm, the search's own included
FULL = {"total": 4, "meta": 2, "schemes": 1, "widths": 1, "short": 1, "seeds": (0, 1, 2),
        "evaluations": 400, "policies": 20, "draws": 3, "limits": ("w25", "w2"), "quick": False,
        "images": [], "calib": [], "networks": ("resnet8", "resnet20", "mobilenet_v2_0.5")}
QUICK = {"total": 2, "meta": 1, "schemes": 1, "widths": 1, "short": 1, "seeds": (0, 1),
         "evaluations": 8, "policies": 4, "draws": 1, "limits": ("w25",), "quick": True,
         "images": ["--limit", "256"], "calib": ["--calib", "64", "--batch", "64"], "networks": ("resnet8",)}
LARGE = {"mobilenet_v2_0.5": {"total": 2, "meta": 1}}  # epochs of networks that train slowly


class Stopped(Exception):
    """Out of time: what is unfinished goes on at the next call."""


class Bench:
    def __init__(self, args):
        self.args = args
        self.set = dict(QUICK if args.quick else FULL)
        self.nibble = os.path.join(os.path.abspath(args.build), "nibble")
        self.root = os.path.dirname(os.path.abspath(__file__))
        self.work = os.path.join(args.work, "quick" if args.quick else "full")
        self.deadline = time.time() + args.time_limit if args.time_limit else float("inf")
        self.lock, self.sizes_lock, self.meta_lock = (threading.Lock() for _ in range(3))
        self.labels = load_cifar(args.data, "test")[1]
        os.makedirs(self.work, exist_ok=True)
        known = {name: sha256([path]) for name in self.set["networks"]
                 for path in [self.network(name)] if os.path.exists(path)}
        if "resnet8" not in known:
            raise SystemExit("no '%s': bench/networks.py makes it" % self.network("resnet8"))
        settings = {k: v for k, v in self.set.items() if k not in ("networks", "seeds", "images", "calib", "limits")}
        self.results = Results(
            args.results, {"what": "comparisons of searches, see docs/searches.md; keys: "
                           "section/network/limit/arm/seed", "script": "bench/searches.py",
                           "threads": THREADS, "cores": os.cpu_count(), **cpu_facts()},
            {"test": sha256(cifar_files(args.data, "test")), "settings": settings})
        for name, content in known.items():
            before = self.results.value.setdefault("networks", {}).setdefault(name, content)
            if before != content:
                raise SystemExit("%s: its figures are of another '%s'" % (args.results, name))

    def network(self, name):
        for folder in (self.args.networks, os.path.join(self.root, "networks")):
            path = os.path.join(folder, name + ".onnx") if folder else ""
            if os.path.exists(path):
                return path
        return os.path.join(self.root, "networks", name + ".onnx")

    def has(self, name):
        return name in self.set["networks"] and os.path.exists(self.network(name))

    def epochs(self, name):
        """The settings with the network's own numbers of epochs."""
        return {**self.set, **LARGE.get(name, {})}

    # ---- results: several tasks at once write one file

    def done(self, key):
        with self.lock:
            return self.results.done(key)

    def get(self, key):
        with self.lock:
            return self.results.get(key)

    def put(self, key, row):
        with self.lock:
            self.results.put(key, row)
            say(key, {k: v for k, v in row.items() if k not in ("correct", "trace", "policy")})

    # ---- children

    def child(self, command, folder=None):
        """stdout and {wall_seconds, cpu_seconds, peak_memory_mb}; exit 3 (a limit is not met) is a
        result. What was used before a kill counts where `folder` keeps it."""
        used = {"wall_seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mb": 0.0}
        note = os.path.join(folder, "used.json") if folder else None
        if note and os.path.exists(note):
            with open(note) as file:
                used = json.load(file)
        if time.time() > self.deadline:
            raise Stopped()
        start, before = time.time(), dict(used)
        with open(os.path.join(folder or self.work, "err.txt"), "w") as err:
            made = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
            timer = None
            if self.deadline < float("inf"):
                timer = threading.Timer(max(self.deadline - start, 0.1), made.send_signal,
                                        [signal.SIGKILL])
                timer.start()
            over = threading.Event()
            watch = threading.Thread(target=note_use, args=(over, made.pid, before, note), daemon=True)
            if note:
                watch.start()
            text = made.stdout.read()
            over.set()
            if note:
                watch.join()
            _, status, usage = os.wait4(made.pid, 0)
            made.returncode = os.waitstatus_to_exitcode(status)
            if timer:
                timer.cancel()
        used["wall_seconds"] = round(before["wall_seconds"] + time.time() - start, 2)
        used["cpu_seconds"] = round(before["cpu_seconds"] + usage.ru_utime + usage.ru_stime, 2)
        used["peak_memory_mb"] = max(used["peak_memory_mb"], round(usage.ru_maxrss / 1024, 1))
        if note:
            write_json(note, used)
        if made.returncode not in (0, 3):
            if time.time() >= self.deadline:
                raise Stopped()
            with open(os.path.join(folder or self.work, "err.txt")) as file:
                raise SystemExit("'%s' exits with %d: %s" % (" ".join(command), made.returncode,
                                                             file.read()[-600:]))
        return text, used

    def common(self, name, seed):
        """Validation images are those that the float network has not seen: seed 0's."""
        return [self.network(name), "--data", os.path.join(self.args.data, CIFAR), *TRANSFORM,
                "--val", "5000", "--val-seed", "0", *self.set["images"], "--seed", str(seed),
                "--threads", str(THREADS), "--quiet"]

    def folder(self, key, anew=False):
        path = os.path.join(self.work, key.replace("/", "_"))
        if anew:
            shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path, exist_ok=True)
        return path

    def quantize(self, key, name, seed, *options, test=True):
        """One run of `nibble quantize`, its test images judged one by one: a row of results."""
        folder = self.folder(key)
        _, used = self.child([self.nibble, "quantize", *self.common(name, seed), *self.set["calib"], *options,
                              "--resume", "-o", folder, "--json"], folder)
        with open(os.path.join(folder, "results.json")) as file:
            found = json.load(file)
        row = row_of(found)
        row.update(used)
        if test:
            row["correct"] = self.judge(folder, name)
        return row

    def judge(self, folder, name):
        """Which test images the deployed model gets right, packed."""
        path = os.path.join(folder, "predictions.txt")
        self.child([self.nibble, "eval", folder, "--data", os.path.join(self.args.data, CIFAR),
                    *TRANSFORM, "--predictions", path, "--threads", str(THREADS), "--quiet",
                    *self.set["images"]])
        classes = np.loadtxt(path, dtype=np.int64)
        return pack_bits(classes == self.labels[:len(classes)])

    def meta(self, name, seed, offers, tag):
        """A MetaQuantNet for these widths, trained once: its file and what that took."""
        key = "meta/%s/%s/%d" % (name, tag, seed)
        path = os.path.join(self.folder(key), "meta.onnx")
        with self.meta_lock:  # two arms at a time must not train the same one
            if not (self.done(key) and os.path.exists(path)):
                text, used = self.child(
                    [self.nibble, "meta-train", *self.common(name, seed), *self.set["calib"],
                     *offers, "--epochs", str(self.epochs(name)["meta"]), "--resume", "-o", path, "--json"],
                    self.folder(key))
                made = json.loads(text)
                used.update(epochs=made["epochs"], seconds=made.get("seconds"))
                self.put(key, used)
        return path

    # ---- tasks

    def run(self, tasks):
        """[(key, function)]: those that are missing, `--jobs` at a time, in this order."""
        missing = [(key, make) for key, make in tasks
                   if re.search(self.args.match, key) and not self.done(key)]

        def one(task):
            if time.time() > self.deadline:
                raise Stopped()
            self.put(task[0], task[1](task[0]))

        with concurrent.futures.ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(one, task) for task in missing]
            errors = [f.exception() for f in futures]
        for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, Stopped)):
            raise error


def note_use(over, pid, before, note):
    """While a child runs: what it has used so far, in case this process is killed with it."""
    start, tick = time.time(), os.sysconf("SC_CLK_TCK")
    while not over.wait(20):
        try:
            with open("/proc/%d/stat" % pid) as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            return
        cpu = (int(fields[11]) + int(fields[12])) / tick
        write_json(note, {**before, "wall_seconds": round(before["wall_seconds"] + time.time() - start, 2),
                          "cpu_seconds": round(before["cpu_seconds"] + cpu, 2)})


def row_of(found):
    """The figures of one results.json."""
    q, tuned = found["quantized"], found.get("finetune")
    row = {"top1": q["top1"], "float_top1": found["float"]["top1"], "bytes": q["bytes"],
           "peak_ram": q["peak_ram"], "bops": q["bops"],
           "average_weight_bits": round(q["average_weight_bits"], 4),
           "average_activation_bits": round(q["average_activation_bits"], 4),
           "met": found["met"], "loss": found["loss"], "trials": found["search"]["trials"],
           "search_seconds": round(found["search"]["seconds"], 2)}
    for key in ("plain_loss", "generated_loss", "ranked_loss"):  # before learned rounding
        if key in (found.get("ptq") or {}):
            row[key] = found["ptq"][key]
    if tuned:
        row.update(epochs=tuned["epochs"], best_epoch=tuned["best_epoch"], start=tuned["from"],
                   before=tuned.get("before"), validation=tuned["lines"][-1]["deployed"])
    row["policy"] = " ".join("%s%d" % ("" if t["scheme"] == "uniform" else t["scheme"], t["bits"])
                             for t in found["policy"]
                             if t["kind"] in ("weight", "activation") and not t.get("fixed"))
    return row


def pack_bits(correct):
    raw = len(correct).to_bytes(4, "little") + np.packbits(correct).tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def unpack_bits(text):
    raw = zlib.decompress(base64.b64decode(text))
    n = int.from_bytes(raw[:4], "little")
    return np.unpackbits(np.frombuffer(raw[4:], np.uint8))[:n].astype(bool)
