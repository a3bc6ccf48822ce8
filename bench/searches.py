"""The comparisons of searches: runs what is missing and keeps what is done in
bench/results/searches.json; an interrupted run goes on where it was (kill -9 included).

    PY bench/networks.py --data DATA resnet8 resnet20      # once: the float networks
    PY bench/searches.py --data DATA [--only SECTION,...] [--time-limit 25m] [--jobs 4]
    PY bench/searches.py --data DATA --quick               # the whole path on a tiny setting
    python3 bench/searches_figures.py docs/searches.md     # tables and curves

Validation images (5,000 that the float networks have not seen) choose; test images are judged once
per final policy, image by image. Every arm starts from the same float weights and gets the same
number of training images, what its search trains on included."""

import argparse
import os
import re

from rival_common import say
from searches_run import Bench, Stopped
from searches_sections import SECTIONS


def seconds(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError("'%s' is no time such as 90s, 25m or 2h" % text)
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with cifar-10-batches-bin/")
    parser.add_argument("--build", default="build")
    parser.add_argument("--networks", help="folder of float networks before bench/networks/")
    parser.add_argument("--work", default=os.path.expanduser("~/.cache/nibble-searches"))
    parser.add_argument("--results", help="the JSON file (default: bench/results/searches.json; "
                                          "with --quick in --work)")
    parser.add_argument("--only", help="sections, of: " + ", ".join(SECTIONS))
    parser.add_argument("--match", default="", help="only rows whose key this regular expression "
                                                    "finds, such as ^main/resnet20")
    parser.add_argument("--time-limit", type=seconds, help="stop after, e.g. 25m; call again to go on")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--torch", help="a Python with torch, model-compression-toolkit and onnx: a "
                                        "peer that is left out otherwise")
    parser.add_argument("--quick", action="store_true", help="few images, one epoch, all sections")
    args = parser.parse_args()
    args.results = args.results or (os.path.join(args.work, "quick.json") if args.quick else
                                    os.path.join(here, "results", "searches.json"))
    names = args.only.split(",") if args.only else list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            parser.error("there is no section '%s'; there are %s" % (name, ", ".join(SECTIONS)))
    bench = Bench(args)
    try:
        for name in names:
            say("== " + name)
            SECTIONS[name](bench)
    except Stopped:
        say("out of time: the same command goes on")
        return
    say("complete: " + ", ".join(names))


main()
