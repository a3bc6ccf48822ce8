"""Tables of docs/accuracy.md, for figures_tables.py: float networks of our own, what fine-tuning makes of
them at few bits, of the given networks, and every scheme on ResNet-8."""

import statistics

NAMES = {"resnet8": "ResNet-8", "resnet20": "ResNet-20", "resnet20_torch_export":
         "ResNet-20, BN folded (PyTorch export)", "mobilenet_v2_0.5": "MobileNetV2-0.5",
         "vgg_small_0.5": "VGG-small-0.5", "dscnn": "DS-CNN"}
# least top-1 of a float network; largest drop in points; least top-1 of the given network
FLOAT_WANTED = {"resnet8": 85, "resnet20": 92}
DROP_WANTED = {"resnet20/W4A4": 0.3, "resnet20/W3A3": 0.8, "resnet20/W2A2": 2.2}
GIVEN_WANTED = {"W4A4": 91.1, "W3A3": 89.8, "W2A2": 86.1}
FOLDED_WANTED = 0.3


def hours(seconds):
    return "%.1f h" % (seconds / 3600) if seconds >= 3600 else "%.0f min" % (seconds / 60)


def quantized(widths, row):
    """What is quantized, and to what."""
    w, a = widths[1:].split("A")
    return ["%s, %s" % (w, a), row.get("first_last", "8"), "%g" % row.get("residual_bits", 8)]


def own_float(load, verdict, table):
    rows = []
    for name, row in load("networks").items():
        wanted = FLOAT_WANTED.get(name)
        seconds = row.get("wall_seconds") or (
            45000 * row["epochs"] / row["images_per_second"] if row.get("images_per_second") else 0)
        rows.append([NAMES.get(name, name), row.get("seed", 0), row["epochs"],
                     "%.2f" % row["top1"],
                     "≥ %d: %s" % (wanted, verdict(row["top1"] >= wanted)) if wanted else "report",
                     hours(seconds) if seconds else ""])
    return table(["network, float", "seed", "epochs", "top-1", "wanted", "training"], rows)


HEADS = ["network", "weights, activations", "first, last layer", "residuals"]


def own_tuned(load, verdict, table):
    rows, groups = [], {}
    for key, row in load("accuracy").items():
        name, widths, epochs, seed = key.replace("+", ", ").split("/")
        groups.setdefault((name, widths, epochs), []).append(row)
        rows.append([NAMES.get(name, name), *quantized(widths, row), epochs, seed,
                     "%.2f" % row["top1"], "%.2f" % row["drop"], row["best_epoch"],
                     "%.2f" % row["validation_deployed"], "%.2f" % row["validation_simulated"],
                     "%.2f" % row["agreement"], hours(row["wall_seconds"])])
    means = []
    for (name, widths, epochs), group in groups.items():
        drop = statistics.mean(r["drop"] for r in group)
        wanted = DROP_WANTED.get(name + "/" + widths)
        means.append([NAMES.get(name, name), *quantized(widths, group[0]), epochs, len(group),
                      "%.2f" % statistics.mean(r["top1"] for r in group), "%.2f" % drop,
                      "≤ %s: %s" % (wanted, verdict(drop <= wanted)) if wanted else "report"])
    return (table(HEADS + ["epochs", "seeds", "top-1, mean", "drop, mean", "wanted"], means) + "\n\n"
            + table(HEADS + ["epochs", "seed", "top-1", "drop", "best epoch",
                             "validation, deployed", "simulated", "same class, %", "wall"], rows))


def given_tuned(load, verdict, table):
    found, rows = load("nibble_qat"), []
    for key, row in found.items():
        name, widths, seed = key.split("/")
        plain = found.get("resnet20/%s/%s" % (widths, seed))
        wanted = "≥ %s: %s" % (GIVEN_WANTED[widths], verdict(row["top1"] >= GIVEN_WANTED[widths]))
        if name != "resnet20" and plain:
            gap = row["top1"] - plain["top1"]
            wanted = "within %s of unfolded: %+.2f, %s" % (FOLDED_WANTED, gap,
                                                           verdict(gap >= -FOLDED_WANTED))
        rows.append([NAMES.get(name, name), *quantized(widths, row), row["epochs"], seed,
                     "%.2f" % row["top1"], "%.2f" % (row["float_top1"] - row["top1"]), wanted,
                     "%.2f" % row["validation_deployed"], "%.2f" % row["validation_simulated"],
                     "%.2f" % row["agreement"], hours(row["seconds"])])
    return table(HEADS + ["epochs", "seed", "top-1", "drop", "wanted", "validation, deployed",
                          "simulated", "same class, %", "training"], rows)


def schemes(load, _, table):
    found = load("nibble_schemes")
    cell, order = {}, []
    for key, row in found.items():
        role, scheme, bits = key.split("/")
        if (role, scheme) not in order:
            order.append((role, scheme))
        tuned = " → %.1f" % row["top1"] if "top1" in row else ""
        cell[role, scheme, int(bits)] = "%.1f" % row["post_training"] + tuned
    rows = [[scheme, role] + [cell.get((role, scheme, bits), "") for bits in range(1, 9)]
            for role, scheme in order]
    text = table(["scheme", "of"] + ["%d" % bits for bits in range(1, 9)], rows)
    trained = [r for r in found.values() if "top1" in r]
    if found:
        text += "\n\nFloat: %.2f." % next(iter(found.values()))["float_top1"]
    if trained:
        text += (" Least share of validation images on which the integer program and "
                 "the simulation say the same class: %.2f %%; largest difference in top-1: %.2f."
                 % (min(r["agreement"] for r in trained),
                    max(abs(r["validation_deployed"] - r["validation_simulated"]) for r in trained)))
    return text


def starts(load, _, table):
    found, rows = load("nibble_starts"), []
    for widths in dict.fromkeys(key.split("/")[0] for key in found):
        pair = [found.get("%s/%s" % (widths, start)) for start in ("float", "rounded")]
        if None in pair:
            continue
        rows.append(["%s, %s" % tuple(widths[1:].split("A")), "%.2f" % pair[0]["before"],
                     *[text for row in pair for text in
                       (" → ".join("%.2f" % d for d in row["deployed"]), "%.3f" % row["losses"][-1])]])
    return table(["weights, activations", "rounded, untrained", "from float weights", "loss",
                  "from rounded ones", "loss"], rows)


ACCURACY = {"starts": starts, "own_float": own_float, "own_tuned": own_tuned, "given_tuned": given_tuned,
            "schemes": schemes}
