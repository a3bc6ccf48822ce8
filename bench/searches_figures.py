"""Writes the tables and curves of docs/searches.md from bench/results/searches.json, between the marks
<!-- name --> and <!-- end -->; curves go to docs/figures/*.svg.

    PY bench/searches_figures.py docs/searches.md [RESULTS.json]"""

import json
import math
import os
import re
import sys

import numpy as np

from searches_run import unpack_bits
from searches_stats import kendall_interval, paired, spread
from searches_svg import plot

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = {"resnet8": "ResNet-8", "resnet20": "ResNet-20", "mobilenet_v2_0.5": "MobileNetV2-0.5"}
LIMITS = {"w2": "2 bits", "w25": "2.5 bits", "w3": "3 bits", "w3s": "0.85 × 3 bits",
          "w2a": "2 bits, activations searched"}
NOTHING = "Not run yet: `bench/searches.py` does."


class Rows:
    """results["section/…/seed"] as {seed: row}."""

    def __init__(self, results):
        self.all = results

    def keys(self, section):
        """Distinct keys of a section without the seed, in the order of the runs."""
        cut = (k.rsplit("/", 1)[0] for k in self.all if k.startswith(section + "/"))
        return list(dict.fromkeys(cut))

    def seeds(self, key):
        return {int(k.rsplit("/", 1)[1]): row for k, row in self.all.items()
                if k.rsplit("/", 1)[0] == key}

    def correct(self, key):
        return {s: unpack_bits(r["correct"]) for s, r in self.seeds(key).items() if "correct" in r}


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(str, r)) + " |" for r in rows]) if rows else NOTHING


def plus(mean, error, digits=2):
    return "%.*f" % (digits, mean) + ("" if math.isnan(error) else " ± %.*f" % (digits, error))


def difference(rows, key, base):
    found = paired(rows.correct(key), rows.correct(base))
    return "" if found is None or key == base else "%+.2f ± %.2f" % found[:2]


def top1(rows, key):
    return plus(*spread([r["top1"] for r in rows.seeds(key).values()]))


def mean_of(rows, key, what):
    return np.mean([r[what] for r in rows.seeds(key).values()])


def main_table(rows):
    out = []
    for key in rows.keys("main"):
        _, network, limit, arm = key.split("/")
        found = rows.seeds(key)
        base = "main/%s/%s/" % (network, {"w3s": "w3", "w2a": "w2"}.get(limit, limit))
        against = difference(rows, key, base + "uniform")
        seen = paired(rows.correct(key), rows.correct(base + "uniform"))
        claim = "" if not against else "yes" if seen[0] > 2 * seen[1] else "no"
        if limit == "w3s" and seen:
            claim = "within 0.3: " + ("yes" if seen[0] >= -0.3 else "no")
        out.append([NAMES[network], LIMITS[limit], arm, len(found),
                    "{:,.0f}".format(mean_of(rows, key, "bytes")), top1(rows, key), against, claim,
                    difference(rows, key, "main/%s/%s/sensitivity" % (network, limit)),
                    "%.0f s" % mean_of(rows, key, "cpu_seconds")])
    return table(["network", "bytes of", "arm", "seeds", "bytes", "top-1", "against uniform",
                  "more than two errors", "against sensitivity", "CPU"], out)


CONTROLS = {"generated": "fine-tuned from generated weights", "shared": "one set of weights for all widths",
            "tables": "a free set for every width", "neighbours": "neighbours' widths in the context"}


def controls_table(rows):
    out = []
    for key in rows.keys("controls"):
        _, network, limit, control = key.split("/")
        base = "main/%s/%s/metaquantnet" % (network, limit)
        out.append([NAMES[network], LIMITS[limit], CONTROLS[control], len(rows.seeds(key)),
                    "{:,.0f}".format(mean_of(rows, key, "bytes")), top1(rows, key), difference(rows, key, base),
                    "%.0f s" % mean_of(rows, key, "cpu_seconds")])
    return table(["network", "bytes of", "metaquantnet, but", "seeds", "bytes", "top-1",
                  "against metaquantnet", "CPU"], out)


def schemes_table(rows):
    out, groups = [], {}
    for key in rows.keys("schemes"):
        _, network, kind, arm = key.split("/")
        groups.setdefault((network, "random" if kind == "random" else kind + ", " + arm), []).append(key)
    for (network, name), keys in groups.items():
        values = [r["top1"] for k in keys for r in rows.seeds(k).values()]
        bits = np.mean([mean_of(rows, k, "average_weight_bits") for k in keys])
        base = "schemes/%s/single/uniform" % network
        out.append([NAMES[network], name, len(values), "%.2f" % bits, plus(*spread(values)),
                    difference(rows, keys[0], base) if len(keys) == 1 else ""])
    return table(["network", "weights' schemes", "runs", "bits", "top-1", "against uniform"], out)


def drop_table(rows):
    out = []
    for key in rows.keys("drop"):
        found = list(rows.seeds(key).values())
        drops = [r["float_top1"] - r["top1"] for r in found]
        out.append([NAMES[key.split("/")[1]], key.split("/")[3], len(found),
                    "%.2f" % found[0]["float_top1"], top1(rows, key), plus(*spread(drops)),
                    "yes" if np.mean(drops) <= 0.8 else "no"])
    return table(["network", "arm", "seeds", "float", "W2A2", "drop", "within 0.8"], out)


def curve(rows, section, network, file, title):
    """Mean and standard error over seeds of the best score so far."""
    series = []
    for key in rows.keys(section + "/" + network):
        traces = [r["trace"] for r in rows.seeds(key).values() if r.get("trace")]
        if not traces:
            continue
        first = max(t[0][0] for t in traces)
        last = min(t[-1][0] for t in traces)
        xs = np.unique(np.geomspace(max(first, 1), max(last, 1), 40).astype(int))
        values = np.array([[next(y for x0, y in reversed(t) if x0 <= x) for x in xs]
                           for t in traces])
        error = values.std(0, ddof=1) / np.sqrt(len(traces)) if len(traces) > 1 else xs * 0.0
        series.append((key.split("/")[2], xs, values.mean(0), error))
    if not series:
        return NOTHING
    plot(os.path.join(os.path.dirname(HERE), "docs", "figures", file), series, title,
         "policies evaluated", "loss of the best (KL)")
    return "![%s](figures/%s)" % (title, file)


def evaluations_table(rows):
    out = []
    for key in rows.keys("evaluations"):
        found = rows.seeds(key).values()
        ends = [r["trace"][-1][1] for r in found]
        halves = [next(y for x, y in reversed(r["trace"]) if x <= max(r["trace"][-1][0] / 10,
                                                                      r["trace"][0][0]))
                  for r in found]
        out.append([NAMES[key.split("/")[1]], key.split("/")[2], len(ends),
                    plus(*spread(halves), 4), plus(*spread(ends), 4), top1(rows, key),
                    "%.0f s" % mean_of(rows, key, "search_seconds")])
    return table(["network", "by", "seeds", "loss after a tenth", "loss at the end",
                  "top-1, not fine-tuned", "search"], out)


def limits_table(rows):
    out = []
    for key in rows.keys("limits"):
        for row in rows.seeds(key).values():
            each = row["limits"]
            out.append([NAMES[key.split("/")[1]], "%.0f s" % row["meta"]["cpu_seconds"],
                        ", ".join("%.0f s" % e["wall_seconds"] for e in each),
                        "%.0f s" % (row["meta"]["cpu_seconds"] + each[0]["cpu_seconds"]),
                        "%.0f s" % (row["meta"]["cpu_seconds"]
                                    + sum(e["cpu_seconds"] for e in each)),
                        "yes" if max(e["wall_seconds"] for e in each[1:]) <= 300 else "no"])
    return table(["network", "hypernetwork, CPU", "each limit, wall", "one limit, CPU",
                  "four limits, CPU", "a new limit within 5 minutes"], out)


def proxy_table(rows):
    out, scores, tuned = [], {}, {}
    for key, row in rows.all.items():
        part = key.split("/")
        if part[0] == "proxy" and part[2] == "scores":
            scores.setdefault(int(part[3]), {}).update(row)
        elif part[0] == "proxy" and part[2] == "ranked":
            scores.setdefault(int(part[3]), {})["ranked"] = row["ranked_loss"]
        elif part[0] == "proxy" and part[2] == "tuned":
            tuned.setdefault(int(part[4]), {})[int(part[3])] = row["top1"]
    seeds = sorted(tuned)
    both = [k for k in sorted(scores) if all(k in tuned[s] for s in seeds)]
    if len(both) < 3 or not seeds:
        return NOTHING
    truth = [np.mean([tuned[s][k] for s in seeds]) for k in both]
    names = {"plain": "score of a search", "ranked": "with `--rank learned`",
             "learned": "the same after learned rounding, as delivered",
             "metaquantnet": "generated weights", "sensitivity": "sum of sensitivities",
             "hawq": "curvature × error (hawq)", "local": "squared error", "bytes": "bytes"}
    for what, name in names.items():
        if not all(what in scores[k] for k in both):
            continue
        sign = 1 if what == "bytes" else -1
        out.append([name, "%.2f (%.2f … %.2f)" % kendall_interval(
            [sign * scores[k][what] for k in both], truth)])
    if len(seeds) > 1:
        out.append(["another seed of the fine-tuning", "%.2f (%.2f … %.2f)" % kendall_interval(
            *[[tuned[s][k] for k in both] for s in seeds[:2]])])
    text = "%d policies, fine-tuned top-1 from %.2f to %.2f.\n\n" % (len(both), min(truth), max(truth))
    return text + table(["score", "Kendall's tau (95 %)"], out)


def quantune_table(rows):
    out, keys = [], rows.keys("quantune")
    ends = [r["trace"][-1][1] for k in keys for r in rows.seeds(k).values() if r.get("trace")]
    goal = 1.05 * min(ends) if ends else 0
    for key in keys:
        found = rows.seeds(key).values()
        reached = [next((x for x, y in r["trace"] if y <= goal), None) for r in found]
        known = [x for x in reached if x is not None]
        out.append([key.split("/")[2], len(reached), "%d of %d" % (len(known), len(reached)),
                    "%.0f" % np.median(known) if known else "",
                    plus(*spread([r["trace"][-1][1] for r in found]), 4)])
    return table(["search", "seeds", "within 5 % of the best of all", "evaluations, median",
                  "loss at the end"], out)


WITHIN = 0.65  # points of top-1 from the best configuration


def settings_table(rows):
    out, keys = [], rows.keys("settings")
    each = {seed: row["top1"] for key in keys if key.endswith("/each")
            for seed, row in rows.seeds(key).items()}
    goal = max(each.values(), default=0) - WITHIN
    for key in keys:
        if key.endswith("/each"):
            continue
        found = rows.seeds(key).values()
        top1s = [[each.get(int(c)) for c in r["order"]] for r in found]
        reached = [next((i + 1 for i, t in enumerate(trace) if t is not None and t >= goal), None)
                   for trace in top1s]
        known = [x for x in reached if x is not None]
        out.append([key.split("/")[2], len(reached), "%d of %d" % (len(known), len(reached)),
                    "%.0f" % np.median(known) if known else "",
                    "%.0f" % np.mean([len(r["order"]) for r in found]), top1(rows, key)])
    return table(["search", "seeds", "within %.2f points" % WITHIN, "evaluations, median",
                  "evaluations in all", "top-1 of the choice"], out)


def fixedpoint_table(rows):
    out = []
    for key in rows.keys("fixedpoint"):
        _, network, arm = key.split("/")
        row = rows.seeds(key)[0]
        base = rows.seeds("fixedpoint/%s/eight" % network).get(0, row)
        out.append([NAMES[network], "8 bits" if arm == "eight" else arm, "{:,.0f}".format(row["bytes"]),
                    "%.0f %%" % (100 * row["bytes"] / base["bytes"]),
                    "%.0f %%" % (100 * row["bops"] / base["bops"]), "%.2f" % row["top1"],
                    "%.2f %%" % (100 * (row["float_top1"] - row["top1"]) / row["float_top1"])])
    return table(["network", "", "bytes", "of 8 bits", "BOPs, of 8 bits", "top-1", "relative loss"],
                 out)


def peers_table(rows):
    out = []
    for key in rows.keys("peers"):
        _, network, width, tool = key.split("/")
        row = rows.seeds(key)[0]
        base = "peers/%s/%s/nibble" % (network, width)
        size = "{:,.0f}".format(row.get("bytes") or row["weight_bytes"])
        out.append([NAMES[network], width[1:] + "-bit weights", row.get("tool", tool),
                    size + ("" if "bytes" in row else ", weights alone"),
                    "%.2f" % row["top1"], difference(rows, key, base),
                    "%.0f s" % row["wall_seconds"], "%.0f MB" % row["peak_memory_mb"]])
    return table(["network", "", "tool", "bytes", "top-1", "against nibble", "wall", "memory"], out)


def blocks(rows):
    return {"searches main": main_table(rows), "searches controls": controls_table(rows), "searches schemes": schemes_table(rows),
            "searches drop": drop_table(rows), "searches evaluations": evaluations_table(rows),
            "searches curve": curve(rows, "evaluations", "resnet8", "evaluations.svg",
                                    "Quality against evaluations, ResNet-8"),
            "searches limits": limits_table(rows), "searches proxy": proxy_table(rows),
            "searches quantune": quantune_table(rows),
            "searches settings": settings_table(rows), "searches fixedpoint": fixedpoint_table(rows),
            "searches peers": peers_table(rows)}


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    path = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "results", "searches.json")
    found = {}
    if os.path.exists(path):
        with open(path) as file:
            found = json.load(file)["results"]
    with open(sys.argv[1]) as file:
        text = file.read()
    for name, block in blocks(Rows(found)).items():
        mark = re.compile("(<!-- %s -->\n).*?(<!-- end -->)" % name, re.S)
        text = mark.sub(lambda m, b=block: m.group(1) + b + "\n" + m.group(2), text)
    with open(sys.argv[1], "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
