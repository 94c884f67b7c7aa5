"""Means of the metrics over a run's last steps, one line for each run.

    python notebooks/last_steps.py accuracy,kl runs/kl1-?
"""

import argparse
import json
import pathlib

raw = argparse.RawDescriptionHelpFormatter
parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
parser.add_argument("metrics", help="names in metrics.jsonl, separated by commas")
parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="run", help="RUNS-DIR/NAME")
parser.add_argument("--steps", type=int, default=4, help="how many of the last steps (4)")
options = parser.parse_args()

names = options.metrics.split(",")
width = max(len(str(run)) for run in options.runs)
print(" " * width, *(f"{name:>20}" for name in names))
for run in options.runs:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    means = []
    for name in names:
        values = [line[name] for line in lines[-options.steps :]]
        known = [value for value in values if value is not None]  # null: not computed
        means.append(sum(known) / len(known) if known else float("nan"))
    print(f"{str(run):<{width}}", *(f"{mean:>20.4g}" for mean in means))
