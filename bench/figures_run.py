"""What the sections of figures.py share: paths, commands timed with their peak memory, results."""

import json
import os
import shutil
import subprocess
import tempfile
import time

from rival_common import Results, cifar_files, cpu_facts, sha256

CIFAR = "cifar-10-batches-bin"
TRANSFORM = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
LIMITED_IMAGES = 64
FACTS = cpu_facts()


def dig(value, *keys):
    for key in keys:
        value = value[key]
    return value


def timed(command):
    """stdout, and {wall, CPU seconds, peak memory in MB} of one process of its own."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise SystemExit("'%s' exits with %d: %s" % (" ".join(command), child.returncode,
                                                         err.read()[-600:]))
        return out.read(), {"wall_seconds": round(seconds, 2),
                            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                            "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),
                            "load_average": round(os.getloadavg()[0], 2)}


def json_of(command):
    text, _ = timed(command)
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(text.strip().splitlines()[-1])


class Kept(Results):
    """Results that a small try does not write."""

    def __init__(self, path, about, inputs, keep):
        self.keep = keep
        if keep:
            super().__init__(path, about, inputs)
        else:
            self.value = {"about": about, "inputs": inputs, "results": {}}

    def save(self):
        if self.keep:
            super().save()


class Job:
    def __init__(self, args):
        self.args = args
        self.root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.build = os.path.abspath(args.build)
        name = "nibble-figures-try" if args.limit else "nibble-figures"
        self.work = args.work or os.path.join(tempfile.gettempdir(), name)
        os.makedirs(self.work, exist_ok=True)
        self.limited = ["--limit", str(args.limit)] if args.limit else []
        self.cifar = ["--data", self.path(CIFAR)]

    def path(self, name):
        return os.path.join(self.args.data, name)

    def model(self, name):
        return os.path.join(self.args.data, "models", name + ".onnx")

    def script(self, name):
        return os.path.join(self.root, "bench", name)

    def program(self, name):
        return os.path.join(self.build, name)

    def nibble(self, *words):
        return [self.program("nibble"), words[0], "--quiet", *words[1:]]

    def result_path(self, name):
        return os.path.join(self.root, "bench", "results", name)

    def draws(self):
        return self.result_path("draws.json")

    def rival(self, name):
        with open(self.result_path(name + ".json")) as file:
            return json.load(file)

    def results(self, name, what):
        models = ("resnet20", "resnet20_torch_export", "resnet32", "mlperf_resnet8")
        inputs = {m: sha256([self.model(m)]) for m in models}
        inputs["test"] = sha256(cifar_files(self.args.data, "test"))
        about = {"what": what, "script": "bench/figures.py", "cores": os.cpu_count(), **FACTS}
        return Kept(self.result_path(name + ".json"), about, inputs, not self.args.limit)


def uniform_options(w, a):
    """One width for all free weights, one for all free activations."""
    return ["--weight-bits", str(w), "--activation-bits", str(a), "--search", "uniform",
            "--max-size", "16M"]


def delivered(tuned):
    """Of a "finetune" in results.json: the validation figures of what was delivered."""
    line = tuned.get("restated") or tuned["lines"][(tuned["best_epoch"] or len(tuned["lines"])) - 1]
    return {"validation_deployed": round(line["deployed"], 3),
            "validation_simulated": round(line["simulated"], 3),
            "agreement": round(line["agreement"], 3)}


def quantize(job, name, model, *options, data=None, transform=None):
    """Folder of a finished run, made if it is absent, and what making it took."""
    folder = os.path.join(job.work, name)
    kept = folder + ".run.json"
    if os.path.exists(kept):
        with open(kept) as file:
            return folder, json.load(file)
    shutil.rmtree(folder, ignore_errors=True)
    if transform is None:
        transform = ["--scale", "1"] if model == "mlperf_resnet8" else TRANSFORM
    small = ["--limit", "400", "--trials", "4"] if job.args.limit else []
    _, run = timed(job.nibble("quantize", job.model(model), *(data or job.cifar), *transform,
                              *options, *small, "--output", folder))
    with open(kept, "w") as file:
        json.dump(run, file)
    return folder, run
