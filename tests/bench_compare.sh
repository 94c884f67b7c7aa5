#!/usr/bin/env bash
# One GRPO step of the demo's shape here and in plain PyTorch (bench_pytorch.py), in turn; prints the ratios of the medians.
# PYTHON names an interpreter that can import torch, ROUNDS how often each runs. Wants a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} rounds=${ROUNDS:-3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
shape=(--layers 4 --hidden 128 --heads 4 --kv-heads 2 --ffn 320 --prompt-tokens 16 --response-tokens 96)
ours=() theirs=()
for ((i = 0; i < rounds; i++)); do
  ours+=("$(build/tiny_zero bench "${shape[@]}" --bench-vocab 32 --group-size 16 | tail -1)")
  theirs+=("$("$python" tests/bench_pytorch.py "${shape[@]}" --vocab 32 --group 16 | tail -1)")
done
printf '%s\n' "${ours[@]}" | "$python" -c '
import json, statistics, sys
ours = [json.loads(line) for line in sys.stdin]
theirs = [json.loads(line) for line in sys.argv[1:]]
print(len(ours), "alternating runs,", ours[0]["threads"], "threads; medians of tokens per second")
print("{:8} {:>10} {:>10} {:>7}".format("", "tiny_zero", "PyTorch", "ratio"))
for phase in ("rollout", "update"):
    a, b = (statistics.median(run[phase + "_tokens_per_s"] for run in runs) for runs in (ours, theirs))
    print("{:8} {:10.0f} {:10.0f} {:7.2f}".format(phase, a, b, a / b))
' "${theirs[@]}"
