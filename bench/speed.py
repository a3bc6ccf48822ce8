"""Two commands side by side: runs A, B, A, B, ... (each prints JSON with "images_per_second") and
reports medians, spreads and the ratio A/B, so that a busy machine slows both.

    python bench/speed.py --rounds 9 --name-a nibble --name-b onnxruntime --out FILE.json \\
        --key w8a8/batch1/threads1 \\
        --a "nibble bench OUT --json --batch 1 --threads 1" \\
        --b "python bench/rival_speed_ort.py --data DATA --models resnet20 --engines qdq \\
             --batches 1 --threads 1 --rounds 1"

The result is either the whole of stdout (one JSON object) or its last line. --value names another
key; --lower-is-better turns the ratio round (for seconds). With --out the result is stored under
--key; a key that is there already is not measured again.
"""

import argparse
import json
import shlex
import statistics
import subprocess

from rival_common import Results, say


def parse(text, value):
    """The JSON object in a command's output: all of it, else its last line."""
    for candidate in [text] + text.strip().splitlines()[-1:]:
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, dict) and value in found:
            return float(found[value])
    raise SystemExit("no JSON object with '%s' in: %.200s" % (value, text.strip()[-200:]))


def measure(command, value):
    run = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    if run.returncode:
        raise SystemExit("'%s' exits with %d: %s" % (command, run.returncode, run.stderr[-300:]))
    return parse(run.stdout, value)


def spread(figures):
    return {"median": round(statistics.median(figures), 2), "best": round(max(figures), 2),
            "worst": round(min(figures), 2)}


def compare(args):
    a, b = [], []
    for i in range(args.rounds):
        a.append(measure(args.a, args.value))
        b.append(measure(args.b, args.value))
        say("round %d of %d: %s %.1f, %s %.1f" % (i + 1, args.rounds, args.name_a, a[-1],
                                                  args.name_b, b[-1]))
    ratios = [y / x if args.lower_is_better else x / y for x, y in zip(a, b)]
    medians = statistics.median(a) / statistics.median(b)
    result = {args.name_a: spread(a), args.name_b: spread(b), "rounds": args.rounds,
              "ratio_of_medians": round(1 / medians if args.lower_is_better else medians, 3),
              "median_of_ratios": round(statistics.median(ratios), 3),
              "ratios": [round(r, 3) for r in sorted(ratios)]}
    if args.lower_is_better:
        for name in (args.name_a, args.name_b):
            result[name]["best"], result[name]["worst"] = (result[name]["worst"],
                                                           result[name]["best"])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--a", required=True, help="our command line")
    parser.add_argument("--b", required=True, help="the rival's command line")
    parser.add_argument("--name-a", default="a")
    parser.add_argument("--name-b", default="b")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--value", default="images_per_second")
    parser.add_argument("--lower-is-better", action="store_true")
    parser.add_argument("--out", help="JSON file to add to")
    parser.add_argument("--key", help="name of this comparison in --out")
    args = parser.parse_args()
    if args.rounds < 1 or args.name_a == args.name_b or bool(args.out) != bool(args.key):
        parser.error("want rounds >= 1, two different names, and --out together with --key")
    results = Results(args.out, {"what": "two programs interleaved on one machine; ratio = %s"
                                         % "first / second, more than 1 means the first is faster"},
                      {}) if args.out else None
    if results and results.done(args.key):
        value = results.get(args.key)
    else:
        value = compare(args)
        if results:
            results.put(args.key, value)
    print(json.dumps(value, indent=1))


if __name__ == "__main__":
    main()
