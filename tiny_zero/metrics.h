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

struct StepStats {
  UpdateStats policy, critic, prm;
  const std::string& skipped() const {  // the PRM's first: what it spoils spoils the policy's loss
    if (!prm.skipped.empty()) return prm.skipped;
    return policy.skipped.empty() ? critic.skipped : policy.skipped;
  }
};

/// One line of metrics.jsonl. A figure that the settings do not produce (a value loss in GRPO) is
/// null; a loss term is there under its own name.
Json step_metrics(int64_t step, const Collection& collected, const Judgement& judgement,
                  const Advantages& estimate, const StepStats& stats, const StepTimes& times,
                  const torch::Device& device);

/// Writes the first `count` responses, group by group, to see why one gained and another did not:
/// step, group (the prompt's number in the rollout), prompt, response, gold answer, the task's
/// reward, without the truncation penalty, and the mean advantage of the response's tokens.
/// @param advantages  (B, T)
void log_samples(RunDirectory& directory, int64_t step, const Rollout& rollout,
                 const torch::Tensor& advantages, int64_t count);
}  // namespace tiny_zero
