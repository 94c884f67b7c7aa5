#!/usr/bin/env bash
# Open R1 in its three stages [Open R1, README.md, "Plan of attack"]: distil a reasoner into a base model by SFT; GRPO on
# an instruct model; and GRPO on what the SFT made of the base model, with the problems that it solves now and then.
#   TEACHER=DIR BASE=DIR INSTRUCT=DIR PROBLEMS=train.jsonl TEST=test.jsonl tasks/math/recipes/open_r1.sh
# The environment also chooses COUNT=93733 problems, RUNS=runs, DEVICE=cuda, and further flags of each command:
#   GENERATE_FLAGS, SFT_FLAGS, EVAL_FLAGS, RL_FLAGS   such as RL_FLAGS='--num-steps 100'
# Called again, it goes on where it stopped.
set -euo pipefail
recipes=$(dirname "$0")
program=${PROGRAM:-$recipes/../../../build/tiny_zero}
runs=${RUNS:-runs} device=${DEVICE:-cuda} count=${COUNT:-93733}
task=(--task math --math-train-file "$PROBLEMS" --math-test-file "$TEST" --device "$device")
read -ra generate_flags <<<"${GENERATE_FLAGS:-}"
read -ra sft_flags <<<"${SFT_FLAGS:-}"
read -ra eval_flags <<<"${EVAL_FLAGS:-}"
read -ra rl_flags <<<"${RL_FLAGS:-}"
mkdir -p "$runs"

learn() {  # verb, name, flags...
  local verb=$1 name=$2
  shift 2
  [[ -d $runs/$name/model ]] && return  # sft has finished; train ends at once if it has
  if ls "$runs/$name"/checkpoints/*/state.json >/dev/null 2>&1; then
    "$program" "$verb" --resume --runs-dir "$runs" --name "$name"
  else  # nothing was saved yet
    rm -rf "${runs:?}/$name"
    "$program" "$verb" --runs-dir "$runs" --name "$name" "$@"
  fi
}

echo "== 1/3  SFT of $BASE on right responses of $TEACHER"
if [[ ! -f $runs/open_r1.jsonl ]]; then  # 4 responses to each problem, the right ones are kept [Open R1: 2 to 4 of R1]
  "$program" generate "${task[@]}" --math-template open-r1 --model "$TEACHER" --problems "$count" --samples 4 \
    --only-right --max-response-tokens 16384 "${generate_flags[@]}" >"$runs/open_r1.jsonl.part"
  mv "$runs/open_r1.jsonl.part" "$runs/open_r1.jsonl"
fi
learn sft open_r1_sft --recipe "$recipes/open_r1_sft.conf" --model "$BASE" --data "$runs/open_r1.jsonl" \
  --device "$device" "${sft_flags[@]}"

echo "== 2/3  GRPO on $INSTRUCT"
learn train open_r1_rl --recipe "$recipes/open_r1_rl.conf" "${task[@]}" --model "$INSTRUCT" "${rl_flags[@]}"

echo "== 3/3  GRPO on the model of stage 1, on problems with a pass rate between 0.1 and 0.9, not at them"
rates=$runs/open_r1_rates.jsonl
[[ -f $rates ]] ||
  "$program" eval --recipe "$recipes/open_r1_rl.conf" "${task[@]}" --model "$runs/open_r1_sft" --split train \
    --eval-problems "$count" --eval-samples 10 --greedy=false --pass-rates "$rates" "${eval_flags[@]}"
learn train open_r1_sft_rl --recipe "$recipes/open_r1_rl.conf" "${task[@]}" --model "$runs/open_r1_sft" \
  --pass-rates "$rates" --min-pass-rate 0.11 --max-pass-rate 0.89 "${rl_flags[@]}"
echo "Runs, each of them a --model: $runs/open_r1_sft $runs/open_r1_rl $runs/open_r1_sft_rl"
