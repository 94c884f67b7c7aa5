#!/usr/bin/env bash
# The methods side by side on the demo's task: every run starts from the demo's base model (RoFormerV2 from its own) and
# takes the demo's recipe, but for the flags below; before and after are measured on the same 1,024 test problems.
#   SEED=0   THREADS=0 (all cores)   RUNS=runs   ONLY='prime lora'   STEPS=44   PROBLEMS=1024
# What is complete is not run again; what was stopped goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
seed=${SEED:-0} runs=${RUNS:-runs} only=${ONLY:-} steps=${STEPS:-44} problems=${PROBLEMS:-1024}
program=build/tiny_zero
common=(--recipe tasks/countdown/recipes/demo.conf --seed "$seed" --threads "${THREADS:-0}")

declare -A flags=(
  [outcome]=""
  [process]="--supervision process"
  [online_rft]="--algorithm rft --truncated keep"
  [reinforce]="--algorithm reinforce"
  [prime]="--algorithm prime --prime-learning-rate 6e-4"
  [sft_then_rl]=""
  [lora]="--lora-rank 8 --learning-rate 6e-3 --final-learning-rate 4e-4"
  [roformer_v2]=""
)
order=(outcome process online_rft reinforce prime sft_then_rl lora roformer_v2)

pretrained() {  # NAME FLAG...: prints the model's directory
  local run=$runs/$1
  if [[ ! -e $run/model/config.json ]]; then
    if ls "$run"/checkpoints/*/state.json >/dev/null 2>&1; then
      "$program" pretrain --resume --runs-dir "$runs" --name "$1" >&2
    else
      rm -rf "$run"
      "$program" pretrain "${common[@]}" --runs-dir "$runs" --name "$1" "${@:2}" >&2
    fi
  fi
  echo "$run/model"
}
warmed_up() {  # BASE: rejection sampling from it, then SFT on the right responses [DeepSeekMath: RFT]
  local name=methods-sft-$seed
  if [[ ! -e $runs/$name/model/config.json ]]; then
    mkdir -p "$runs"
    "$program" generate "${common[@]}" --model "$1" --problems 1024 --samples 8 --only-right \
      >"$runs/$name.jsonl"
    rm -rf "${runs:?}/$name"
    "$program" sft --seed "$seed" --threads "${THREADS:-0}" --model "$1" --data "$runs/$name.jsonl" \
      --runs-dir "$runs" --name "$name" --sft-epochs 2 --sft-batch 32 --learning-rate 2.5e-4 >&2
  fi
  echo "$runs/$name/model"
}
evaluate() {  # MODEL FILE
  [[ -e $2 ]] || "$program" eval "${common[@]}" --model "$1" --eval-problems "$problems" --greedy=false --json "$2" >&2
}

base=$(pretrained "demo-base-$seed")
for method in "${order[@]}"; do
  [[ -z $only || " $only " == *" $method "* ]] || continue
  name=methods-$method-$seed
  start=$base
  case $method in
    sft_then_rl) start=$(warmed_up "$base") ;;
    roformer_v2) start=$(pretrained "methods-roformer-base-$seed" --shape roformer-v2 --pretrain-warmup-updates 500) ;;
  esac
  run=$runs/$name
  if [[ ! -e $run/checkpoints/step_$steps ]]; then
    if ls "$run"/checkpoints/*/state.json >/dev/null 2>&1; then
      "$program" train --resume --runs-dir "$runs" --name "$name" --num-steps "$steps" >&2
    else
      rm -rf "$run"
      # shellcheck disable=SC2086
      "$program" train "${common[@]}" --runs-dir "$runs" --name "$name" --model "$start" --num-steps "$steps" \
        ${flags[$method]} >&2
    fi
  fi
  evaluate "$start" "$run/before_$problems.json"
  evaluate "$run/checkpoints/step_$steps/model" "$run/after_${steps}_$problems.json"
done
python3 - "$runs" "$seed" "$steps" "$problems" "${order[@]}" <<'PYTHON'
import json, pathlib, sys
runs, seed, steps, problems, *order = sys.argv[1:]
print("| method | accuracy before | after | reward before | after | response tokens after | minutes of training |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for method in order:
    run = pathlib.Path(runs, f"methods-{method}-{seed}")
    files = run / f"before_{problems}.json", run / f"after_{steps}_{problems}.json"
    if not files[1].exists():
        continue
    before, after = (json.loads(file.read_text()) for file in files)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[int(steps) - 1])
    cells = [f"{x['accuracy']['mean']:.3f}" for x in (before, after)]
    cells += [f"{x['reward_mean']:.3f}" for x in (before, after)]
    print("|", " | ".join([method, *cells, f"{after['response_tokens_mean']:.0f}", f"{last['wall_s'] / 60:.1f}"]), "|")
PYTHON
