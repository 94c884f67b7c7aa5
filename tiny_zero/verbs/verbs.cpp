#include "tiny_zero/verbs/verbs.h"

#include <torch/cuda.h>

#include "tiny_zero/methods/pass_rates.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"
#include "tiny_zero/trainer.h"
#include "tiny_zero/verbs/bench.h"
#include "tiny_zero/verbs/evaluate.h"
#include "tiny_zero/verbs/pipes.h"
#include "tiny_zero/verbs/plan.h"
#include "tiny_zero/verbs/pretrain.h"
#include "tiny_zero/verbs/report.h"
#include "tiny_zero/verbs/sft.h"

namespace tiny_zero {

std::vector<std::string> task_sections() {
  std::vector<std::string> names = task_names();
  names.push_back("task");
  return names;
}

std::vector<Verb> make_verbs() {
  const std::vector<std::string> training{"run",        "task", "sampling",  "algorithm",
                                          "advantages", "loss", "critic",    "prime",
                                          "optimiser",  "lora", "pass rates"};
  std::vector<Verb> verbs{
      {"pretrain",
       "make a tiny base model from the task's base text",
       {"name", "runs-dir", "seed", "device", "compute-type", "resume", "keep-checkpoints", "task",
        "base text", "shape", "pretraining", "beta1", "beta2", "adam-epsilon", "weight-decay",
        "max-grad-norm"},
       pretrain,
       /*like_run=*/false,
       /*writes_run=*/true},
      {"sft",
       "fine-tune a model on responses: {\"prompt\", \"response\"} lines",
       {"name", "runs-dir", "model", "seed", "device", "compute-type", "resume", "save-every",
        "keep-checkpoints", "sft", "tokens-per-micro-batch", "optimiser"},
       [](const Config& config, const Settings& settings, const Task&) { sft(config, settings); },
       /*like_run=*/true,
       /*writes_run=*/true},
      {"train", "reinforcement learning with a rule reward: PPO, GRPO or PRIME", training,
       [](const Config& config, const Settings& settings, const Task& task) {
         RunDirectory directory(config, settings);  // refuses before anything is loaded
         config.validate_training();
         const ChosenProblems problems(config, task);
         plan(config, problems);
         Trainer(config, problems, directory).run();
       },
       /*like_run=*/false,
       /*writes_run=*/true},
      {"eval",
       "measure a model on the task's problems",
       {"model", "seed", "device", "compute-type", "task", "sampling", "evaluation", "pass-rates"},
       [](const Config& config, const Settings&, const Task& task) { evaluate(config, task); },
       /*like_run=*/true},
      {"plan",
       "check train's settings and show the memory that they would need, and what to change if "
       "that is too much",
       training,
       [](const Config& config, const Settings&, const Task& task) {
         config.validate_training();
         plan(config, ChosenProblems(config, task));
       }},
      {"generate",
       "continue prompts: {\"prompt\"} -> {\"prompt\", \"response\", \"ids\", \"log_probs\"}, or "
       "answer the task's problems",
       {"model", "seed", "device", "compute-type", "task", "sampling", "generation",
        "min-pass-rate", "max-pass-rate", "chat", "pipes"},
       [](const Config& config, const Settings&, const Task& task) { generate(config, task); },
       /*like_run=*/true},
      {"score",
       "log-probs: {\"prompt\", \"response\"} or {\"prompt_ids\", \"response_ids\"} -> "
       "{\"ids\", \"log_probs\"}",
       {"model", "device", "compute-type", "temperature", "chat", "pipes"},
       [](const Config& config, const Settings&, const Task&) { score(config); }},
      {"tokenize",
       "text to ids and back: {\"text\"} <-> {\"ids\"}",
       {"model", "decode", "pipes"},
       [](const Config& config, const Settings&, const Task&) { tokenize(config); }},
      {"grade",
       "judge answers: {\"gold\", \"candidate\"} or {\"gold\", \"response\"} -> {\"correct\", "
       "\"extracted\", \"reason\"}",
       {"task", "pipes"},
       [](const Config& config, const Settings&, const Task& task) { grade_lines(config, task); }},
      {"decontaminate",
       "drop training problems that share ten words in a row with a test problem",
       {"decontamination", "pipes"},
       [](const Config& config, const Settings&, const Task&) { decontaminate(config); }},
      {"export",
       "write a model for transformers or vLLM, LoRA's adapters merged in",
       {"model", "export"},
       [](const Config& config, const Settings&, const Task&) { export_model(config); }},
      {"bench",
       "measure the speed of sampling and updating",
       {"seed", "device", "compute-type", "shape", "rollout-batch", "prompts-per-step",
        "group-size", "epochs", "mini-batches", "tokens-per-micro-batch", "bench"},
       [](const Config& config, const Settings&, const Task&) { bench(config); }},
      {"report",
       "compare a run's figures before and after, and with those of earlier seeds",
       {"name", "runs-dir", "report"},
       [](const Config& config, const Settings&, const Task&) { report(config); }}};
  for (auto& [name, help, reads, run, like_run, writes_run, pipe] : verbs) {
    pipe = std::ranges::count(reads, "pipes") > 0;
    if (std::ranges::count(reads, "task") > 0)
      for (const auto& section : task_sections()) reads.push_back(section);
    reads.insert(reads.end(), {"threads", "show-settings"});
  }
  return verbs;
}

void check_device(const Verb& verb, const Config& config) {
  if (config.device == "cpu" || (verb.name == "plan" && !config.memory.empty())) return;
  const int64_t count = torch::cuda::device_count();
  for (int64_t i = 0; i < count; ++i)
    if (config.device == "cuda" || config.device == "cuda:" + std::to_string(i)) return;
  throw std::invalid_argument(
      "device is \"" + config.device + "\", found " +
      (count == 0 ? "no CUDA device that this build can use"
                  : "cuda:0 to cuda:" + std::to_string(count - 1)) +
      "; --device cpu works everywhere" +
      (verb.name == "plan" ? ", and --gpu-memory 24GiB plans for a device that is elsewhere" : ""));
}

}  // namespace tiny_zero
