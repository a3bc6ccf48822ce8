"""The sections of searches.py: which runs belong to which comparison."""

import json
import os
import random
import sqlite3
import struct

from searches_peers import run_peers
from searches_quantune import run_quantune, run_settings

WEIGHTS = "1,2,3,4"         # offered to searches under all limits: one MetaQuantNet serves them
ACTIVATIONS = "2,3,4,6,8"   # where activations are searched
EIGHT = {"binary": 1, "ternary": 2, "quaternary": 2, "fixed": 2, "zoom": 2, "clip": 2, "pot": 2,
         "residual": 2}     # AutoQNN's schemes at two bits
ALL_SCHEMES = ",".join(["1,2,3,4", "ternary2", "quaternary2", "clip2,clip3,clip4", "pot2,pot3",
                        "residual2,residual3,residual4", "zoom2,zoom3,zoom4"])
COSTS = ("bytes", "bytes_onnx", "avg_bits", "ram", "bops", "latency", "energy")


def offers(activations="4", weights=WEIGHTS):
    return ["--weight-bits", weights, "--activation-bits", activations]


def sizes(bench, name):
    """{W: [bytes, BOPs]} of weights uniform at W bits and activations at 4, measured once."""
    key = "sizes/%s/0" % name
    with bench.sizes_lock:
        if not bench.done(key):
            row = {}
            for w in (2, 3):
                made = bench.quantize("%s/w%d" % (key, w), name, 0, *offers("4", str(w)), "--search",
                                      "uniform", "--max-size", "64M", "--ptq", "none", test=False)
                row[str(w)] = [made["bytes"], made["bops"]]
            bench.put(key, row)
        return {int(w): row for w, row in bench.get(key).items()}


def arm_options(bench, arm, name, seed, tag, offered):
    """Search and fine-tuning of one arm: always `total` epochs of training together."""
    s = bench.epochs(name)
    meta, widths, schemes, total = s["meta"], s["widths"], s["schemes"], s["total"]
    spent = {"metaquantnet": meta, "autoqnn": widths, "fracbits": widths, "dq": widths,
             "autoqnn_schemes": schemes + widths}.get(arm, 0)
    search = {"metaquantnet": lambda: "metaquantnet:meta=" + bench.meta(name, seed, offered, tag),
              "autoqnn": lambda: "autoqnn:scheme_epochs=0,width_epochs=%d" % widths,
              "fracbits": lambda: "fracbits:epochs=%d" % widths,
              "dq": lambda: "dq:epochs=%d" % widths,
              "sensitivity_learned": lambda: "sensitivity",
              "autoqnn_schemes": lambda: "autoqnn:scheme_epochs=%d,width_epochs=%d"
                                         % (schemes, widths)}.get(arm, lambda: arm)()
    rank = ["--rank", "learned"] if arm == "sensitivity_learned" else []
    return ["--search", search, *rank, "--finetune", str(max(total - spent, 1))]


# ---- main arms

ARMS = ("uniform", "sensitivity", "metaquantnet", "autoqnn")


def limits_of(bench, name):
    """name: (bytes, BOPs or None, activations). w25 is half way between 2 and 3 bits; w3s is 0.85 of
    the bytes of 3 bits, to be compared with uniform 3 bits (w3)."""
    u = sizes(bench, name)
    two, three = u[2][0], u[3][0]
    return {"w2": (two, None, "4"), "w25": (int((two + three) / 2), None, "4"),
            "w3": (three, None, "4"), "w3s": (int(0.85 * three), None, "4"),
            "w2a": (two, u[2][1], ACTIVATIONS)}


def main_task(bench, name, limit, arm, seed):
    def make(key):
        size, bops, activations = limits_of(bench, name)[limit]
        twin = key.replace("/w2/", "/w25/") if limit == "w2" else key.replace("/w25/", "/w2/")
        if arm == "uniform" and twin != key and bench.done(twin):  # 3 bits fit neither: the same run
            return {**bench.get(twin), "limit": size}
        tag = "a" if activations != "4" else "w"
        offered = offers(activations)
        options = arm_options(bench, arm, name, seed, tag, offered)
        if arm == "autoqnn_schemes":
            offered = offers(activations, ALL_SCHEMES)
        if bops:
            options += ["--max-bops", str(bops)]
        row = bench.quantize(key, name, seed, *offered, "--max-size", str(size), *options)
        row["limit"] = size
        return row
    return "main/%s/%s/%s/%d" % (name, limit, arm, seed), make


def run_main(bench):
    """The four main arms first; larger networks and further arms at the first limit."""
    seeds, limits = bench.set["seeds"], bench.set["limits"]

    def arms(name, which, limits, arms):
        return [main_task(bench, name, limit, arm, seed) for seed in which for limit in limits for arm in arms]

    tasks = arms("resnet8", seeds, limits, ARMS)
    tasks += arms("resnet8", seeds, ["w3"], ["uniform"]) + arms("resnet8", seeds, ["w3s"], ARMS[1:])
    for name, which in (("resnet20", seeds), ("mobilenet_v2_0.5", seeds[:1])):
        if bench.has(name):
            tasks += arms(name, which, limits[:1], ARMS)
    tasks += arms("resnet8", seeds[:1], ["w2a"], ARMS[1:])
    bench.run(tasks + arms("resnet8", seeds, limits[:1], ("sensitivity_learned", "autoqnn_schemes",
                                                          "fracbits", "dq")))


# ---- what the generator is worth

def run_controls(bench):
    """metaquantnet with one set of weights for all widths, with one for each, with the neighbours'
    widths in the context, and fine-tuned from the generated weights; `main` has it as it is."""
    s, name, tasks = bench.set, "resnet8", []
    controls = {"shared": "weights=shared", "tables": "weights=tables", "neighbours": "context=3"}

    def trained(key):
        _, _, limit, control, seed = key.split("/")
        return bench.quantize(key, name, int(seed), *offers(), "--max-size",
                              str(limits_of(bench, name)[limit][0]), "--search",
                              "metaquantnet:epochs=%d,%s" % (s["meta"], controls[control]),
                              "--finetune", str(max(s["total"] - s["meta"], 1)))

    def generated(key):
        _, _, limit, _, seed = key.split("/")
        return bench.quantize(key, name, int(seed), *offers(), "--max-size",
                              str(limits_of(bench, name)[limit][0]), "--start", "search",
                              *arm_options(bench, "metaquantnet", name, int(seed), "w", offers()))

    for seed in s["seeds"]:
        for limit in s["limits"][:1]:
            key = "controls/%s/%s/%%s/%d" % (name, limit, seed)
            tasks.append((key % "generated", generated))
            tasks += [(key % control, trained) for control in controls]
    bench.run(tasks)


# ---- schemes, as the QSS page asks

def policy_file(bench, key, like, choose):
    """A policy file: what `choose(row)` gives free weights ("pot", 2), the rest as in `like`."""
    with open(os.path.join(like, "policy.json")) as file:
        found = json.load(file)
    for row in found["policy"]:
        if row["kind"] == "weight" and not row.get("fixed"):
            row["scheme"], row["bits"] = choose(row)
    path = os.path.join(bench.folder(key), "given.json")
    with open(path, "w") as file:
        json.dump(found, file)
    return path


def sensitivity(bench, key, name, offered, *more):
    """The table of `nibble sensitivity`, made once."""
    path = os.path.join(bench.folder(key), "table.json")
    if not os.path.exists(path):
        text, _ = bench.child([bench.nibble, "sensitivity", *bench.common(name, 0), *offered, *more,
                               "--json"], bench.folder(key))
        with open(path + ".tmp", "w") as file:
            file.write(text)
        os.replace(path + ".tmp", path)
    with open(path) as file:
        return {t["tensor"]: t for t in json.load(file)["tensors"]}


def eight():
    return ",".join("%s%d" % item for item in EIGHT.items())


def run_schemes(bench):
    """Weights at two bits (binary has one), activations uniform at four; `total` epochs each. What is
    searched is compared with uniform on all seeds, the others on one."""
    s, name, tasks = bench.set, "resnet8", []
    room = ["--max-size", "16M"]
    tune = ["--finetune", str(s["total"])]
    learned = ["--finetune", str(max(s["total"] - s["schemes"], 1))]

    def single(scheme, bits, seed):
        return lambda key: bench.quantize(key, name, seed, *offers("4", "%s%d" % (scheme, bits)),
                                          "--search", "uniform", *room, *tune)

    def given(seed, choose):
        like = bench.folder("schemes/%s/single/uniform/%d" % (name, s["seeds"][0]))
        return lambda key: bench.quantize(key, name, seed, *offers("4", eight()), "--policy",
                                          policy_file(bench, key, like, choose), *tune)

    def drawn(draw):
        rng = random.Random(draw)
        return lambda row: rng.choice(list(EIGHT.items()))

    def least_error(row):
        table = sensitivity(bench, "schemes/%s/table" % name, name, offers("4", eight()))
        best = max(table[row["tensor"]]["options"], key=lambda o: o["sqnr"])
        return best["scheme"], best["bits"]

    def search(scope, seed):
        how = "autoqnn:scheme_epochs=%d,width_epochs=0,scope=%s" % (s["schemes"], scope)
        return lambda key: bench.quantize(key, name, seed, *offers("4", eight()), "--search", how,
                                          *room, *learned)

    prefix, singles = "schemes/%s/" % name, list(EIGHT.items())[:3 if s["quick"] else None]
    bench.run([(prefix + "single/uniform/%d" % s["seeds"][0], single("uniform", 2, s["seeds"][0]))])
    for seed in s["seeds"]:
        tasks += [(prefix + "search/%s/%d" % (scope, seed), search(scope, seed))
                  for scope in ("layer", "model")]
        first = seed == s["seeds"][0]
        tasks += [(prefix + "single/%s/%d" % (scheme, seed), single(scheme, bits, seed))
                  for scheme, bits in [("uniform", 2), *(singles if first else [])]]
        if not first:
            continue
        tasks.append((prefix + "greedy/local/%d" % seed, given(seed, least_error)))
        tasks += [(prefix + "random/%d/%d" % (draw, seed), given(seed, drawn(draw)))
                  for draw in range(s["draws"])]
    bench.run(tasks)


# ---- W2A2, the drop against float

def run_drop(bench):
    """AutoQNN's claim: two bits everywhere within 0.8 points of float."""
    s, tasks = bench.set, []
    schemes = ",".join(["2", "ternary2", "quaternary2", "clip2", "pot2", "residual2", "zoom2"])
    arms = {"uniform": (offers("2", "2"), "uniform", 0),
            "autoqnn_schemes": (offers("2,quaternary2,clip2,residual2", schemes),
                                "autoqnn:scheme_epochs=%d,width_epochs=0" % s["schemes"],
                                s["schemes"])}
    for name in s["networks"][:2]:
        if not bench.has(name):
            continue
        for arm, (offered, search, spent) in arms.items():
            tasks += [("drop/%s/w2a2/%s/%d" % (name, arm, seed),
                       lambda key, n=name, o=offered, q=search, e=spent, d=seed: bench.quantize(
                           key, n, d, *o, "--search", q, "--max-size", "16M", "--finetune",
                           str(max(s["total"] - e, 1))))
                      for seed in (s["seeds"] if name == "resnet8" else s["seeds"][:1])]
    bench.run(tasks)


# ---- quality against evaluations, on one hypernetwork

def trace_of(folder, limit):
    """Scores of feasible policies in the order in which they were evaluated, of the last run in the
    study (earlier runs hold scores of other weights)."""
    base = sqlite3.connect(os.path.join(folder, "study.db"))
    last = base.execute("SELECT max(run) FROM trials").fetchone()[0]
    rows = base.execute("SELECT score, costs FROM trials WHERE run = ? ORDER BY ordinal", (last,))
    scores = []
    for score, costs in rows:
        values = struct.unpack("<%dd" % (len(costs) // 8), costs)
        feasible = values[COSTS.index("bytes")] <= limit
        scores.append(score if feasible and score is not None else float("inf"))
    base.close()
    return scores


def best_so_far(scores, points=60):
    """[[evaluations, best score]]: where it improves, thinned."""
    best, rows = float("inf"), []
    for i, score in enumerate(scores, 1):
        if score < best:
            best = score
            rows.append([i, round(best, 6)])
    step = max(1, -(-len(rows) // points))
    kept = [row for k, row in enumerate(rows) if k % step == 0 or row is rows[-1]]
    return kept + ([[len(scores), round(best, 6)]] if rows and rows[-1][0] < len(scores) else [])


def run_evaluations(bench):
    """genetic, random and DDPG with the same generated weights and as many evaluations; then four
    limits in a row with what each took."""
    s, tasks = bench.set, []
    for name in s["networks"][:2]:
        if not bench.has(name):
            continue
        for seed in s["seeds"] if name == "resnet8" else s["seeds"][:1]:
            def make(key, name=name, seed=seed):
                by = key.split("/")[2]
                limit = limits_of(bench, name)["w25"][0]
                meta = bench.meta(name, seed, offers(), "w")
                row = bench.quantize(key, name, seed, *offers(), "--max-size", str(limit),
                                     "--search", "metaquantnet:meta=%s,by=%s%s" %
                                     (meta, by, ",iterations=1000,seeded=0" if by == "genetic"
                                      else ""),
                                     "--trials", str(s["evaluations"]), "--ptq", "none")
                row["trace"] = best_so_far(trace_of(bench.folder(key), limit))
                return row
            tasks += [("evaluations/%s/%s/%d" % (name, by, seed), make)
                      for by in ("genetic", "random", "haq")]
    bench.run(tasks)
    bench.run([("limits/%s/%d" % (name, seed),
                lambda key, n=name, d=seed: four_limits(bench, key, n, d))
               for name in s["networks"][:2] if bench.has(name) for seed in s["seeds"][:1]])


def four_limits(bench, key, name, seed):
    """What the search alone takes for each limit, the hypernetwork's training once beside it."""
    known = limits_of(bench, name)
    meta = bench.meta(name, seed, offers(), "w")
    row = {"meta": bench.get("meta/%s/w/%d" % (name, seed)), "limits": []}
    for limit in ("w2", "w25", "w3s", "w3"):
        made = bench.quantize(key + "/" + limit, name, seed, *offers(), "--max-size",
                              str(known[limit][0]), "--search", "metaquantnet:meta=" + meta,
                              "--trials", str(s_trials(bench)), test=False)
        row["limits"].append({k: made[k] for k in ("search_seconds", "wall_seconds", "cpu_seconds",
                                                   "trials", "loss", "bytes")})
    return row


def s_trials(bench):
    return bench.set["evaluations"]


# ---- does a score order policies as fine-tuning does?

def draw_policies(table, count):
    """Random policies spread from the narrowest to the widest: every layer draws around a mean that
    rises from policy to policy."""
    rng = random.Random(7)
    drawn = []
    for k in range(count):
        mean = 1.2 + 2.6 * k / max(count - 1, 1)
        drawn.append({t: ("uniform", min(4, max(1, round(rng.gauss(mean, 0.8))))) for t in table})
    return drawn


def additive(table, policy):
    """What each model of independent tensors predicts for a policy."""
    sums = {"sensitivity": 0.0, "local": 0.0, "hawq": 0.0}
    for tensor, (_, bits) in policy.items():
        t = table[tensor]
        option = next(o for o in t["options"] if o["bits"] == bits)
        error = t["power"] * 10 ** (-option["sqnr"] / 10)
        sums["sensitivity"] += option["loss"]
        sums["local"] += error
        sums["hawq"] += 0.5 * max(t["curvature"], 0) * error
    return sums


def run_proxy(bench):
    """Policies scored by everything a search uses, then fine-tuned with two seeds."""
    s, name, tasks = bench.set, "resnet8", []
    seeds = s["seeds"][:2]
    table = sensitivity(bench, "proxy/table", name, offers(), "--curvature")
    table = {t: row for t, row in table.items() if row["kind"] == "weight"}
    like = bench.folder("proxy/like")
    if not os.path.exists(os.path.join(like, "policy.json")):
        bench.quantize("proxy/like", name, 0, *offers("4", "2"), "--search", "uniform",
                       "--max-size", "16M", "--ptq", "none", test=False)
    meta = bench.meta(name, seeds[0], offers(), "w")

    def given(key, policy):
        return ["--policy", policy_file(bench, key, like, lambda row: policy[row["tensor"]])]

    for k, policy in enumerate(draw_policies(table, s["policies"])):
        def scored(key, policy=policy):
            plain = bench.quantize(key + "/plain", name, 0, *offers(), *given(key, policy),
                                   test=False)
            row = {"plain": plain.get("plain_loss", plain["loss"]), "learned": plain["loss"],
                   "bytes": plain["bytes"], "policy": plain["policy"]}
            made = bench.quantize(key + "/meta", name, seeds[0], *offers(), *given(key, policy),
                                  "--search", "metaquantnet:meta=" + meta, "--ptq", "none",
                                  test=False)
            row["metaquantnet"] = made["loss"]
            row.update(additive(table, policy))
            return row

        tasks.append(("proxy/%s/scores/%d" % (name, k), scored))
        tasks.append(("proxy/%s/ranked/%d" % (name, k), lambda key, p=policy: bench.quantize(
            key, name, 0, *offers(), *given(key, p), "--rank", "learned", test=False)))
        tasks += [("proxy/%s/tuned/%d/%d" % (name, k, seed),
                   lambda key, p=policy, d=seed: bench.quantize(
                       key, name, d, *offers(), *given(key, p), "--finetune", str(s["short"])))
                  for seed in seeds]
    bench.run(tasks)


# ---- fixed point

def run_fixedpoint(bench):
    """The walk with power-of-two scales for weights, held to a relative loss of 1 %, against 8 bits."""
    s = bench.set
    offered = [*offers("4,5,6,7,8", ",".join("fixed%d" % b for b in range(4, 9))),
               "--bias-bits", "8,16,32", "--ptq", "none"]
    tasks = []
    for name in s["networks"][:2]:
        if not bench.has(name):
            continue
        tasks.append(("fixedpoint/%s/eight/0" % name, lambda key, n=name: bench.quantize(
            key, n, 0, *offers("8", "fixed8"), "--search", "uniform", "--max-size", "16M", "--ptq",
            "none")))

        def walk(key, name=name):
            drop = bench.get("fixedpoint/%s/eight/0" % name)["float_top1"] / 100
            return bench.quantize(key, name, 0, *offered, "--search", key.split("/")[2],
                                  "--max-drop", "%.3f" % drop, "--trials",
                                  str(2 * s["evaluations"]))
        tasks += [("fixedpoint/%s/%s/0" % (name, arm), walk) for arm in ("fixedpoint", "sensitivity")]
    bench.run(tasks[::3])
    bench.run(tasks)


SECTIONS = {"main": run_main, "controls": run_controls, "schemes": run_schemes, "drop": run_drop,
            "evaluations": run_evaluations, "proxy": run_proxy, "quantune": run_quantune,
            "settings": run_settings, "fixedpoint": run_fixedpoint, "peers": run_peers}
