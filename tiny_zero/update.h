#pragma once
// One rollout's update of the policy and of the critic: epochs x mini-batches x micro-batches.

#include <map>
#include <string>

#include "tiny_zero/advantage.h"
#include "tiny_zero/learner.h"
#include "tiny_zero/step_dump.h"

namespace tiny_zero {

/// One network's updates of a step.
struct UpdateStats {
  std::map<std::string, double>
      means;                 // of each loss term over the updates that had it, by its name
  double grad_norm = 0;      // before scaling; mean over the updates
  double learning_rate = 0;  // of the last update; 0 if there was none
  double ratio_max_deviation =
      0;  // largest |pi_theta / pi_sampler - 1| before the first update: rounding [T10]
  int64_t updates = 0;  // taken
  int64_t tokens = 0;   // prompt and response tokens that went through the network
  std::string skipped;  // the term that was not finite, "" if none: that update changed nothing
};

/// Updates the policy, and with it the value head of a shared trunk.
/// @param dump  what the step computed is added to it; null for none
/// @param on_progress  called after each micro-batch: responses learnt from, of all passes
UpdateStats update_policy(Learner& policy, const Rollout& rollout, const Judgement& judgement,
                          const Advantages& estimate, const Config& config, int64_t step,
                          StepDump* dump = nullptr, const OnProgress& on_progress = {});
/// Updates a separate critic.
UpdateStats update_critic(Learner& critic, const Rollout& rollout, const Judgement& judgement,
                          const Advantages& estimate, const Config& config, int64_t step,
                          StepDump* dump = nullptr, const OnProgress& on_progress = {});
/// Teaches the process reward model which of the rollout's responses are right.   [PRIME]
/// @param ref_log_probs  (B, T) of the PRM's start, at temperature 1
UpdateStats update_prm(Learner& prm, const Rollout& rollout, const torch::Tensor& ref_log_probs,
                       const Config& config, int64_t step, StepDump* dump = nullptr);

}  // namespace tiny_zero
