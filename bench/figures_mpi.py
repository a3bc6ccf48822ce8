"""Section `mpi` of figures.py: a genetic search on ResNet-20, one process with one thread against
`mpirun -n 2` with one thread each: wall seconds, and whether everything that is found is the same."""

import json
import os
import shutil
import subprocess

from figures_run import FACTS, TRANSFORM, Kept, timed
from rival_common import cifar_files, say, sha256

POLICIES = 400
SIZE = "100K"


def launcher(processes):
    if processes == 1:
        return []
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    few = ["--oversubscribe"] if os.cpu_count() < processes else ["--bind-to", "core"]
    return ["mpirun", *as_root, *few, "-n", str(processes)]


def search(job, processes, policies):
    """What the run found and took."""
    folder = os.path.join(job.work, "mpi%d" % processes)
    shutil.rmtree(folder, ignore_errors=True)
    _, run = timed(launcher(processes)
                   + job.nibble("quantize", job.model("resnet20"), *job.cifar, *TRANSFORM,
                                "--search", "genetic", "--trials", str(policies), "--max-size", SIZE,
                                "--ptq", "none", "--threads", "1", "--output", folder))
    found = {}
    for name in ("policy", "results"):
        with open(os.path.join(folder, name + ".json")) as file:
            found[name] = json.load(file)
    return found, {"processes": processes, "threads": 1,
                   "policies": found["results"]["search"]["trials"],
                   "search_seconds": round(found["results"]["search"]["seconds"], 2), **run}


def same(a, b):
    rows = [x["policy"]["policy"] for x in (a, b)]
    return rows[0] == rows[1] and a["results"]["quantized"]["top1"] == b["results"]["quantized"]["top1"]


def run_mpi(job):
    version = subprocess.run([job.program("nibble"), "--version"], capture_output=True, text=True,
                             check=True).stdout
    if "MPI" not in version:
        say("mpi: --build is one without -DNIBBLE_MPI=ON")
        return
    about = {"what": "genetic search on ResNet-20, %d policies, `--max-size %s`, one thread each"
                     % (POLICIES, SIZE),
             "script": "bench/figures.py mpi", "cores": os.cpu_count(), **FACTS}
    inputs = {"network": sha256([job.model("resnet20")]),
              "test": sha256(cifar_files(job.args.data, "test"))}
    results = Kept(job.result_path("nibble_mpi.json"), about, inputs, not job.args.limit)
    if results.done("2"):
        return
    policies = min(POLICIES, job.args.limit or POLICIES)
    alone, one = search(job, 1, policies)
    spread, two = search(job, 2, policies)
    two["same"] = same(alone, spread)
    for key in ("wall_seconds", "search_seconds"):
        two["times_" + key.split("_")[0]] = round(one[key] / two[key], 2)
    results.put("1", one)
    results.put("2", two)
    say("mpi", one, two)
