#!/usr/bin/env bash
# One GRPO step of the demo's shape here and in plain PyTorch (bench_pytorch.py), in turn: PyTorch in both of its types, of
# which the better counts in each phase. Prints the medians, and their ratios. Wants a quiet machine.
# PYTHON names an interpreter that can import torch, ROUNDS how often each runs, COMPUTE_TYPE what runs here.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} rounds=${ROUNDS:-3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
shape=(--layers 4 --hidden 128 --heads 4 --kv-heads 2 --ffn 320 --prompt-tokens 16 --response-tokens 96)
ours=() theirs=()
for ((i = 0; i < rounds; i++)); do
  ours+=("$(build/tiny_zero bench "${shape[@]}" --bench-vocab 32 --group-size 16 --threads "$OMP_NUM_THREADS" \
            --compute-type "${COMPUTE_TYPE:-auto}" 2>/dev/null | tail -1)")
  for type in float32 bfloat16; do
    theirs+=("$("$python" tests/bench_pytorch.py "${shape[@]}" --vocab 32 --group 16 --rollout-dtype $type | tail -1)")
  done
done
printf '%s\n' "${ours[@]}" | "$python" -c '
import json, pathlib, re, statistics, sys
ours = [json.loads(line) for line in sys.stdin]
theirs = [json.loads(line) for line in sys.argv[1:]]  # float32 and bfloat16 in turn
names = re.findall(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
print(names[0] if names else "a processor without a name", end="; ")
print(len(ours), "alternating runs,", ours[0]["threads"], "threads; medians of tokens per second")
print("PyTorch", theirs[0]["torch"], "rolls out in float32 or bfloat16 and updates with bfloat16 autocast")
median = lambda runs, phase: statistics.median(run[phase + "_tokens_per_s"] for run in runs)
print("{:8} {:>18} {:>17} {:>17} {:>17}".format("", "tiny_zero " + ours[0]["compute_type"], "PyTorch float32", "PyTorch bfloat16", "ratio to better"))
for phase in ("rollout", "update"):
    a, b, c = median(ours, phase), median(theirs[::2], phase), median(theirs[1::2], phase)
    print("{:8} {:18.0f} {:17.0f} {:17.0f} {:17.2f}".format(phase, a, b, c, a / max(b, c)))
' "${theirs[@]}"
