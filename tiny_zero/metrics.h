#pragma once
// What a step reports. Every figure is over the whole step; README.md says what each means.

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/update.h"

namespace tiny_zero {

struct StepTimes {
  double rollout_s = 0;  // sampling and grading
  double update_s = 0;   // everything after
  double wall_s = 0;     // all steps of the run so far
};

/// One line of metrics.jsonl. A figure that the settings do not produce (a value loss in GRPO) is
/// null.
Json step_metrics(int64_t step, const Rollout& rollout, const Experience& experience,
                  const UpdateStats& stats, const StepTimes& times, double learning_rate,
                  const torch::Device& device, const Config& config);

/// Writes the first responses of a step, one of each of `count` prompts: step, prompt, response,
/// reward.
void log_samples(RunDirectory& directory, int64_t step, const Rollout& rollout, int64_t count);

/// Prompts whose group has different rewards, so that the group teaches something.
std::vector<int64_t> mixed_groups(const Rollout& rollout);

/// Largest memory of the process so far: resident on the CPU, allocated on a GPU.
int64_t peak_memory_bytes(const torch::Device& device);

}  // namespace tiny_zero
