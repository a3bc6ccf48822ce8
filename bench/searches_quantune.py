"""Section `quantune` of searches.py: evaluations that boosted trees need, against random and genetic
search, with and without what an earlier run of other calibration images has scored. Section
`settings`: the same over Quantune's own space, how a network is calibrated."""

import os
import sqlite3

ARMS = {"quantune": "quantune:transfer=0", "quantune_transfer": "quantune:transfer=1",
        "random": "random", "genetic": "genetic:seeded=0,iterations=1000"}


def run_quantune(bench):
    from searches_sections import best_so_far, limits_of, offers, trace_of

    s, name, tasks = bench.set, "resnet8", []
    trials = ["--trials", str(min(s["evaluations"], 200)), "--ptq", "none"]

    def make(key):
        arm, seed = key.split("/")[2], int(key.split("/")[3])
        limit = limits_of(bench, name)["w25"][0]
        room = [*offers(), "--max-size", str(limit)]
        if arm == "quantune_transfer":  # the same folder's study, other calibration images
            bench.quantize(key, name, 1000 + seed, *room, "--search", "random", *trials, test=False)
        row = bench.quantize(key, name, seed, *room, "--search", ARMS[arm], *trials)
        row["trace"] = best_so_far(trace_of(bench.folder(key), limit))
        return row

    for seed in s["seeds"]:
        tasks += [("quantune/%s/%s/%d" % (name, arm, seed), make) for arm in ARMS]
    bench.run(tasks)


# ---- settings: Quantune's own space

SETTINGS = {"grid": "grid", "random": "random", "genetic": "genetic:population=8,parents=4,iterations=1000",
            "quantune": "quantune:transfer=0", "quantune_transfer": "quantune:transfer=1"}
CALIBS, RANGES = (1, 1000, 10000), ("minmax", "kl", "mse")
GRAINS, ENDS = ("tensor", "channel"), ("searched", "8")
TEACHER, PUPIL = "resnet20", "resnet8"  # transfer: what was learned on the one, used on the other


def settings_trials(folder):
    """The configurations of the last search for settings, in the order in which they were tried."""
    with sqlite3.connect(os.path.join(folder, "study.db")) as db:
        found = db.execute("SELECT policy FROM trials JOIN runs ON runs.id = run WHERE length(policy) "
                           "= 5 AND run = (SELECT max(run) FROM trials WHERE length(policy) = 5) "
                           "ORDER BY ordinal").fetchall()
    return [tuple(row[0]) for row in found]


def fixed_options(configuration):
    calib, scheme, clip, grain, end = configuration
    return [*(["--schemes", "fixed"] if scheme else []), "--calib", str(CALIBS[calib]), "--range",
            RANGES[clip], "--granularity", GRAINS[grain], "--first-last", ENDS[end]]


def run_settings(bench):
    """Weights at 4 bits, activations at 8: top-1 of every configuration, then in which order each
    search tries them."""
    s, tasks = bench.set, []
    room = ["--weight-bits", "4", "--activation-bits", "8", "--max-size", "64M", "--ptq", "none"]
    few = {"trials": ["--trials", str(min(s["evaluations"], 72))]}

    def one(configuration):
        def make(key):
            return bench.quantize(key, PUPIL, 0, *room, *fixed_options(configuration), "--search",
                                  "uniform", test=False)
        return "settings/%s/each/%s" % (PUPIL, "".join(map(str, configuration))), make

    def arm(key):
        name, seed = key.split("/")[2], int(key.split("/")[3])
        if name == "quantune_transfer" and bench.has(TEACHER):  # its study lies in the folder first
            bench.quantize(key, TEACHER, 0, *room, "--settings", "grid", *few["trials"], test=False)
        row = bench.quantize(key, PUPIL, seed, *room, "--settings", SETTINGS[name], *few["trials"],
                             test=False)
        row["order"] = ["".join(map(str, c)) for c in settings_trials(bench.folder(key))]
        return row

    for seed in s["seeds"]:
        tasks += [("settings/%s/%s/%d" % (PUPIL, name, seed), arm) for name in SETTINGS]
    bench.run(tasks)
    tried = set()
    for key, _ in tasks:
        tried |= {tuple(map(int, c)) for c in bench.get(key)["order"]}
    bench.run([one(c) for c in sorted(tried)])
