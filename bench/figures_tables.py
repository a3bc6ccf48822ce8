"""Writes the tables of docs/benchmarks.md and docs/accuracy.md from bench/results/*.json, between the marks
<!-- name --> and <!-- end -->.

    python3 bench/figures_tables.py docs/benchmarks.md"""

import json
import os
import re
import statistics
import sys

from accuracy_tables import ACCURACY

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
CONFIGS = ("W8A8", "W4A8", "W4A4", "W3A8", "W3A3", "W2A8", "W2A2")
NAMES = {"resnet20": "ResNet-20", "resnet20_torch_export": "ResNet-20, BN folded (PyTorch export)",
         "resnet32": "ResNet-32", "mlperf_resnet8": "ResNet-8", "mlperf_kws_dscnn": "DS-CNN",
         "mobilenet_v1_0.25_224_imagenet": "MobileNet 0.25"}


def load(name):
    path = os.path.join(RESULTS, name + ".json")
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        return json.load(file)


def results(name):
    return load(name).get("results", {})


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def model_name(key):
    model, _, rest = key.partition("/")
    return NAMES[model] + (", " + rest if rest else "")


def verdict(good):
    return "yes" if good else "**no**"


def float_table():
    rival = results("float_ort")
    rows = []
    for model, row in results("nibble_float").items():
        other = rival[model]["top1"]
        rows.append([NAMES[model], "%.2f" % row["top1"], "%.2f" % other,
                     verdict(abs(row["top1"] - other) <= 0.3)])
    return table(["network", "nibble", "ONNX Runtime", "within 0.3"], rows)


def ptq_table():
    rows = []
    summary = load("nibble_ptq").get("summary", {})
    for key in ["resnet20/%s/%s" % (r, c) for r in ("augmented", "plain") for c in CONFIGS]:
        row = summary.get(key)
        if row:
            _, ranges, config = key.split("/")
            rows.append([config, ranges, "%.2f ± %.2f" % (row["mean"], row["std"]),
                         "%.2f ± %.2f" % (row["rival_mean"], row["rival_std"]),
                         "%+.2f ± %.2f" % (row["difference"], row["difference_std"]),
                         verdict(row["difference"] >= -0.3)])
    return table(["", "ranges from", "nibble, integers", "PyTorch, fake quantization",
                  "paired difference", "≥ −0.3"], rows)


def learned_table():
    wanted = {"W4A4": 90.8, "W3A3": 88, "W2A4": 80}
    rows = []
    for key, row in load("nibble_ptq_learned").get("summary", {}).items():
        method, config = key.split("/")
        good = verdict(row["mean"] >= wanted[config]) if config in wanted else ""
        rows.append([config, method, "%.3f" % row["mean"],
                     "%.2f … %.2f" % (row["least"], row["most"]), row["draws"],
                     "%.1f" % row["cpu_seconds"],
                     "≥ %s: %s" % (wanted[config], good) if good and method == "gram" else ""])
    rows.sort(key=lambda r: CONFIGS.index(r[0]) if r[0] in CONFIGS else len(CONFIGS))
    return table(["", "`--ptq`", "top-1, mean", "least … most", "draws", "CPU s", "wanted"], rows)


def folded_table():
    summary = load("nibble_ptq").get("summary", {})
    ours, folded = (summary.get(m + "/augmented/W3A3") for m in ("resnet20",
                                                                 "resnet20_torch_export"))
    if not folded:
        return ""
    old = results("ptq_torch")
    means = [statistics.mean(old["%s/residual8/W3A3/%d" % (k, d)]["top1"] for d in range(5))
             for k in ("folded", "folded_corrected")]
    gap = folded["mean"] - ours["mean"]
    return table(["W3A3, mean of 5 draws", "top-1"],
                 [["nibble, BN as it is", "%.2f" % ours["mean"]],
                  ["nibble, BN folded by the exporter", "%.2f (%+.2f; wanted: within 0.5)"
                   % (folded["mean"], gap)],
                  ["PyTorch, folded, nothing corrected", "%.2f" % means[0]],
                  ["PyTorch, folded, corrected", "%.2f" % means[1]]])


def limits_table():
    found = results("nibble_limits")
    rows = []
    for key, row in found.items():
        group, *rest = key.split("/")
        if group == "table":
            continue
        method, rounding, seed = rest
        base = found["%s/uniform/%s/%s" % (group, rounding, seed)]["top1"]
        rows.append([group[-1] + " bits", seed[4:], "learned" if rounding == "gram" else "plain",
                     method, "{:,}".format(row["bytes"]), "%.2f" % row["top1"],
                     "" if method == "uniform" else "%+.2f" % (row["top1"] - base), row["trials"],
                     "%.0f s" % row["wall_seconds"], "%.0f s" % row["cpu_seconds"],
                     "%.0f MB" % row["peak_memory_mb"], "%.1f" % row["load_average"]])
    rows.sort(key=lambda row: (row[0], row[1], row[2] != "plain"))
    return table(["size of uniform", "seed", "rounding", "search", "bytes", "top-1",
                  "against uniform", "policies", "wall", "CPU", "memory", "load at the end"], rows)


def main_table():
    """The short one of README."""
    found, rival = results("nibble_limits"), results("quantize_static")
    names = [("w8a8", "8 bits, uniform"), ("w4a8", "4-bit weights"),
             ("w4a4", "4-bit weights and activations"), ("100K", "`--max-size 100K`"),
             ("80K", "`--max-size 80K`")]
    rows = [["float", "1,084,392", "%.2f" % results("nibble_float")["resnet20"]["top1"], "", ""]]
    for key, name in names:
        row = found.get("table/" + key)
        if row:
            rows.append([name, "{:,}".format(row["bytes"]), "%.2f" % row["top1"],
                         "{:,}".format(row["peak_ram"]), "%.0f s" % row["cpu_seconds"]])
    for key, name in (("w8a8_minmax", "8 bits"), ("w4a8_minmax", "4-bit weights")):
        row = rival["resnet20/" + key]
        rows.append(["ONNX Runtime `quantize_static`, " + name,
                     "{:,} (file)".format(row["file_bytes"]), "%.2f" % row["top1"], "",
                     "%.0f s" % row["cpu_seconds"]])
    return table(["ResNet-20, CIFAR-10", "bytes", "top-1, %", "RAM", "CPU time of quantizing"],
                 rows)


def code_table():
    rows = [[model_name(k), r["images"], verdict(r["equal"]), "{:,}".format(r["bytes"]),
             "{:,}".format(r["object_bytes"]), verdict(abs(r["difference"]) <= 1024)]
            for k, r in results("nibble_code").items()]
    return table(["network", "inputs", "equal, every byte", "`bytes`", "constants in model.o",
                  "within 1 KB"], rows)


def qdq_table():
    rows = [[model_name(k), r["images"], "%.2f %%" % r["agreement"], r["different"],
             "%.2f" % r["top1"], "{:,}".format(r["model_bytes"]),
             "{:,}".format(r["allowed_bytes"]),
             verdict(r["agreement"] >= 99.8 and r["fits"])]
            for k, r in results("nibble_qdq").items()]
    return table(["network", "images", "same class", "different", "top-1", "model.onnx",
                  "allowed", "met"], rows)


def policies_table():
    rows = []
    for key, r in results("nibble_policies").items():
        total = r["gmacs_computed"] + r["gmacs_saved"]
        rows.append([r["policies"], "%d MiB" % r["cache_mib"], "%.1f s" % r["seconds"],
                     "%.1f s" % r["cpu_seconds"], "%.2f s" % (r["cpu_seconds"] / r["policies"]),
                     "%.0f" % (r["gmacs_computed"] / r["cpu_seconds"]),
                     "%.0f %%" % (100 * r["gmacs_saved"] / total)])
    return table(["policies", "prefix cache", "wall", "CPU", "CPU per policy",
                  "GMAC per CPU second", "MACs saved by the cache"], rows)


def mpi_table():
    rows = [[r["processes"], r["threads"], r["policies"], "%.1f s" % r["search_seconds"],
             "%.1f s" % r["wall_seconds"], "%.1f s" % r["cpu_seconds"], r["load_average"],
             "%.2f, %.2f" % (r["times_search"], r["times_wall"]) if "same" in r else "",
             verdict(r["same"]) if "same" in r else ""] for r in results("nibble_mpi").values()]
    return table(["processes", "threads of each", "policies", "search", "whole run", "CPU",
                  "load at the end", "faster: search, whole run", "the same result"], rows)


def sensitivity_table():
    rows = [[key, r["tensors"], r["widths"], "%.1f s" % r["wall_seconds"],
             "%.1f s" % r["cpu_seconds"], "%.0f MB" % r["peak_memory_mb"], r["load_average"]]
            for key, r in results("nibble_sensitivity").items()]
    return table(["", "tensors", "widths", "wall", "CPU", "memory", "load at the end"], rows)


def growth_table():
    rows = [[r["policies"], r["images"], "%.0f s" % r["policies_seconds"],
             "%.0f s" % r["wall_seconds"], "%.0f s" % r["cpu_seconds"],
             "%.0f MB" % r["peak_memory_mb"], verdict(r["policies_seconds"] <= 300)]
            for r in results("nibble_growth").values()]
    return table(["policies", "images", "scoring them", "whole run", "CPU of it", "memory",
                  "scored within 300 s"], rows)


def select_table():
    rows = [[r["groups"], r["options"], r["limits"], r["instances"], "%.1f ms" % r["median_ms"],
             "%.1f ms" % r["p90_ms"], "%.0f ms" % r["worst_ms"], r["open"],
             verdict(r["median_ms"] <= 100 and r["worst_ms"] <= 1000)]
            for r in results("nibble_select").values()]
    return table(["groups", "options", "limits", "instances", "median", "9 of 10 within", "worst",
                  "not proven in 1 s", "median within 100 ms, worst within 1 s"], rows)


def speed_table():
    rows = []
    for key, r in results("nibble_speed").items():
        engine, batch, threads = key.split("/")
        rival = r["onnxruntime"]
        cpu = r.get("cpu_ratio_onnxruntime")
        exact = r.get("ratio_onnxruntime_exact")
        rows.append([engine, batch[5:], threads[7:], "{:,.0f}".format(r["nibble"]["median"]),
                     "{:,.0f}".format(rival["median"]), "%.2f" % r["ratio_onnxruntime"],
                     "%.2f" % r["ratio_of_best_onnxruntime"], "%.2f" % cpu if cpu else "",
                     "%.2f" % exact if exact else "", "%.1f" % r["load_average"],
                     verdict(r["ratio_onnxruntime"] >= (0.7 if engine == "integer" else 0.8))])
    return table(["engine", "batch", "threads", "nibble, images/s", "ONNX Runtime", "ratio",
                  "of the best", "by CPU time", "against exact kernels", "load", "floor met"], rows)


def demo_table():
    rows = [["clean clone" if k == "clean" else "again", "%.0f s" % r["wall_seconds"],
             "%.0f s" % r["cpu_seconds"], "%.1f" % r["load_average"]]
            for k, r in results("nibble_demo").items()]
    return table(["`make demo`", "wall", "CPU", "load"], rows)


def train_table():
    ours, rows = results("nibble_train"), []
    kinds = (("float", "float", "float"), ("float", "float", "float_compiled"),
             ("W4A4, learned steps", "w4a4_lsq", "lsq"), ("W4A4, learned steps", "w4a4_lsq", "lsq_compiled"),
             ("W4A4, learned steps", "w4a4_lsq", "fused"))
    for network, prefix, float_goal in (("ResNet-20", "", 1.1),
                                        ("MobileNetV2-0.5", "mobilenet_v2_0.5/", 1.2)):
        for name, key, kind in kinds:
            want = float_goal if key == "float" else 1.4
            for file in ("train_torch", "train_torch_current"):
                torch = load(file)
                a, b = ours.get(prefix + key), torch.get("results", {}).get(prefix + kind)
                if not a or not b:
                    continue
                ratio = a["images_per_second"] / b["images_per_second"]
                rows.append([network, name, "%.0f" % a["images_per_second"],
                             kind.replace("_", ", ") + " (%s)" % torch["about"]["torch"].split("a")[0].split("+")[0],
                             "%.0f" % b["images_per_second"], "%.2f" % ratio, "%.1f" % want,
                             verdict(ratio >= want),
                             "%.2f" % (b["cpu_seconds_per_step"] / a["cpu_seconds_per_step"]),
                             "%.0f MB, %.0f MB" % (a["peak_memory_mb"], b["peak_memory_mb"])])
    return table(["network", "nibble", "images/s", "PyTorch (version)", "images/s", "ratio", "wanted", "met",
                  "ratio of CPU time", "peak memory"], rows)


def plan_table():
    r = results("nibble_plan").get("resnet20", {})
    rows = [[name] + ["%.1f ms" % r[key + ", " + when] for when in ("new", "seen")]
            + [verdict(r[key + ", new"] <= 20)]
            for name, key in (("specialise + plan, forward", "specialise + plan"),
                              ("specialise + plan, forward and backward", "train")) if r]
    return table(["ResNet-20, batch 32", "new", "seen before", "within 20 ms"], rows)


def bias_table():
    r = results("nibble_bias")
    rows = [["%s bits" % bits, "%.2f" % row["top1"], "%.4f" % row["validation_loss"],
             "{:,}".format(row["bytes"])]
            for bits in (8, 16, 32) for row in [r.get("w4/b%d" % bits)] if row]
    return table(["biases", "top-1, test", "divergence, validation", "bytes"], rows)


TABLES = {"bias": bias_table, "plan": plan_table, "train": train_table, "float": float_table, "ptq": ptq_table,
          "ptq_learned": learned_table, "folded": folded_table, "limits": limits_table,
          "main": main_table, "code": code_table, "qdq": qdq_table, "policies": policies_table, "mpi": mpi_table,
          "sensitivity": sensitivity_table, "growth": growth_table, "select": select_table,
          "speed": speed_table, "demo": demo_table,
          **{name: lambda make=make: make(results, verdict, table)
             for name, make in ACCURACY.items()}}


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with open(sys.argv[1]) as file:
        text = file.read()
    for name, make in TABLES.items():
        block = re.compile("(<!-- %s -->\n).*?(<!-- end -->)" % name, re.S)
        text = block.sub(lambda m, made=make(): m.group(1) + made + "\n" + m.group(2), text)
    with open(sys.argv[1], "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
