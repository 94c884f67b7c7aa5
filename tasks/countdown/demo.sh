#!/usr/bin/env bash
# The demo behind `make demo`: a tiny base model that guesses learns, by reinforcement learning with a rule reward alone,
# to try, check and try again. Settings are in recipes/demo.conf; the environment chooses:
#   ALGORITHM=grpo|ppo   SEED=0   DEVICE=cpu|cuda   QUICK=1 (the same path in under a minute)   RUNS=runs
set -euo pipefail
cd "$(dirname "$0")/../.."
algorithm=${ALGORITHM:-grpo} seed=${SEED:-0} device=${DEVICE:-cpu} runs=${RUNS:-runs}
program=build/tiny_zero recipe=tasks/countdown/recipes/demo.conf
base=demo-base-$seed run=demo-$algorithm-$seed small=() quick=()
if [[ -n ${QUICK:-} ]]; then
  base=quick-base-$seed run=quick-$algorithm-$seed
  small=(--pretrain-tokens 250000)
  quick=(--num-steps 4 --save-every 2 --prompts-per-step 8)
fi
common=(--recipe "$recipe" --seed "$seed" --device "$device")
remove() {  # a run, unless a process writes it
  if [[ -e $1/lock ]] && ! flock -n "$1/lock" true; then
    echo "$1 is in use by $(<"$1/lock"); wait for it, or take another directory: RUNS=DIR" >&2
    exit 1
  fi
  rm -rf "${1:?}"
}
step() { printf '\n== %s\n' "$*"; }
evaluate() {  # model, stage
  local problems=1024
  [[ -n ${QUICK:-} ]] && problems=64
  "$program" eval "${common[@]}" --model "$1" --eval-problems "$problems" --greedy=false \
    --json "$runs/$run/$2.json" --responses "$runs/$run/$2.jsonl" >"$runs/$run/$2.txt"
}

if [[ ! -f $runs/$base/model/config.json ]]; then
  step "1/4  Pre-training the tiny base model: most documents guess, some search (countdown-search-share in $recipe)"
  remove "$runs/$base"
  "$program" pretrain "${common[@]}" --runs-dir "$runs" --name "$base" "${small[@]}"
else
  step "1/4  The base model is there: $runs/$base/model"
fi
step "2/4  Training by ${algorithm^^} with a rule reward"
remove "$runs/$run"
"$program" train "${common[@]}" --runs-dir "$runs" --name "$run" --algorithm "$algorithm" --model "$runs/$base/model" \
  --keep-checkpoints 1000 "${quick[@]}"
step "3/4  Evaluating on problems never trained on"
mapfile -t checkpoints < <(ls -d "$runs/$run"/checkpoints/step_* | sort -V)
evaluate "$runs/$base/model" before
evaluate "${checkpoints[$(((${#checkpoints[@]} - 1) / 2))]}/model" middle
evaluate "${checkpoints[-1]}/model" after
step "4/4  Before and after"
expected=tasks/countdown/expected/$algorithm.jsonl
[[ -n ${QUICK:-} || ! -f $expected ]] && expected=
"$program" report --runs-dir "$runs" --name "$run" --expected "$expected"
if command -v gnuplot >/dev/null; then
  gnuplot -e "run='$runs/$run'" tasks/countdown/curve.gp
  echo "Picture: $runs/$run/curve.svg    Metrics: $runs/$run/metrics.jsonl"
else
  echo "Curve: $runs/$run/curve.tsv (gnuplot, if installed, would draw it)"
fi
