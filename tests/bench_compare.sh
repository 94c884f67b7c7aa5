#!/usr/bin/env bash
# One GRPO step here and in plain PyTorch (tests/bench_pytorch.py), in turn on the same shape and threads; prints the ratios
# of the medians. PYTHON names an interpreter that can import torch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} rounds=${ROUNDS:-3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
ours=() theirs=()
for ((i = 0; i < rounds; i++)); do
  ours+=("$(build/tiny_zero bench --group-size 8 --tokens-per-micro-batch 4096 | tail -1)")
  theirs+=("$("$python" tests/bench_pytorch.py | tail -1)")
done
printf '%s\n' "${ours[@]}" | "$python" -c '
import json, statistics, sys
ours = [json.loads(line) for line in sys.stdin]
theirs = [json.loads(line) for line in sys.argv[1:]]
print(f"{"":10} {"tiny_zero":>12} {"PyTorch":>12} {"ratio":>7}   medians of {len(ours)} alternating runs, {ours[0]["threads"]} threads")
for phase in ("rollout", "update"):
    a, b = (statistics.median(run[f"{phase}_tokens_per_s"] for run in runs) for runs in (ours, theirs))
    print(f"{phase:10} {a:8.0f} t/s {b:8.0f} t/s {a / b:7.2f}")
' "${theirs[@]}"
