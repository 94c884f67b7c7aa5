#include "tiny_zero/verbs/verbs.h"

#include "tiny_zero/trainer.h"
#include "tiny_zero/verbs/bench.h"
#include "tiny_zero/verbs/evaluate.h"
#include "tiny_zero/verbs/pipes.h"
#include "tiny_zero/verbs/plan.h"
#include "tiny_zero/verbs/pretrain.h"
#include "tiny_zero/verbs/report.h"

namespace tiny_zero {

std::vector<Verb> make_verbs() {
  return {{"pretrain",
           "make a tiny base model from the task's base text",
           {"run", "task", "shape", "pretraining", "optimiser"},
           pretrain,
           /*pipe=*/false,
           /*writes_run=*/true},
          {"train",
           "reinforcement learning with a rule reward: PPO or GRPO",
           {"run", "task", "sampling", "algorithm", "advantages", "loss", "critic", "optimiser"},
           [](const Config& config, const Settings& settings, const Task& task) {
             RunDirectory directory(config, settings);  // refuses before anything is loaded
             config.validate_training();
             check_memory(config, task);
             Trainer(config, task, directory).run();
           },
           /*pipe=*/false,
           /*writes_run=*/true},
          {"eval",
           "measure a model on the task's problems",
           {"run", "task", "sampling", "evaluation"},
           [](const Config& config, const Settings&, const Task& task) { evaluate(config, task); }},
          {"plan",
           "show the memory that train would need, and what to change if that is too much",
           {"run", "task", "sampling", "algorithm", "loss", "critic"},
           [](const Config& config, const Settings&, const Task& task) { plan(config, task); }},
          {"generate",
           "continue prompts: {\"prompt\"} -> {\"prompt\", \"response\", \"ids\", \"log_probs\"}",
           {"run", "task", "sampling", "generation", "text"},
           [](const Config& config, const Settings&, const Task& task) { generate(config, task); },
           /*pipe=*/true},
          {"score",
           "log-probs: {\"prompt\", \"response\"} or {\"prompt_ids\", \"response_ids\"} -> "
           "{\"ids\", \"log_probs\"}",
           {"run", "sampling", "text"},
           [](const Config& config, const Settings&, const Task&) { score(config); },
           /*pipe=*/true},
          {"tokenize",
           "text to ids and back: {\"text\"} <-> {\"ids\"}",
           {"run", "text"},
           [](const Config& config, const Settings&, const Task&) { tokenize(config); },
           /*pipe=*/true},
          {"grade",
           "judge answers: {\"gold\", \"candidate\"} or {\"gold\", \"response\"} -> {\"correct\", "
           "\"extracted\", "
           "\"reason\"}",
           {"task"},
           [](const Config&, const Settings&, const Task& task) { grade_lines(task); },
           /*pipe=*/true},
          {"decontaminate",
           "drop training problems that share ten words in a row with a test problem",
           {"decontamination"},
           [](const Config& config, const Settings&, const Task&) { decontaminate(config); },
           /*pipe=*/true},
          {"export",
           "write a model for transformers or vLLM",
           {"run", "export"},
           [](const Config& config, const Settings&, const Task&) { export_model(config); }},
          {"bench",
           "measure the speed of sampling and updating",
           {"run", "shape", "sampling", "algorithm", "bench"},
           [](const Config& config, const Settings&, const Task&) { bench(config); }},
          {"report",
           "compare a run's figures before and after, and with those of earlier seeds",
           {"run", "report"},
           [](const Config& config, const Settings&, const Task&) { report(config); }}};
}

}  // namespace tiny_zero
