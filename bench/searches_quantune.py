"""Section `quantune` of searches.py: evaluations that boosted trees need, against random and genetic
search, with and without what an earlier run of other calibration images has scored."""

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
