#pragma once
// One rollout's update of the policy and of the critic: epochs x mini-batches x micro-batches.

#include <filesystem>
#include <optional>

#include "tiny_zero/optimizer.h"
#include "tiny_zero/rollout.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

/// What the losses need beside the rollout: (B, T) tables on the CPU, constants of the step.
struct Experience {
  torch::Tensor advantages;
  torch::Tensor ref_log_probs;  // undefined without a reference
  torch::Tensor values;         // V(s_t) before the update; undefined without a critic
  torch::Tensor returns;        // likewise
  torch::Tensor loss_mask;      // bool: the rollout's mask, less what truncated = mask leaves out
};

/// Sums over the step divided once, so that no micro-batch speaks for all [T34]. A mean is over
/// response tokens.
struct UpdateStats {
  double policy_loss = 0, value_loss = 0;
  double kl = 0;             // mean k3 to the reference, nats
  double entropy = 0;        // mean, nats
  double clip_fraction = 0;  // share of tokens whose ratio was clipped
  double ratio_max_deviation =
      0;  // largest |pi_theta / pi_sampler - 1| before the first update: 0 but for rounding [T10]
  double log_prob_gap_mean = 0;  // mean |log pi_theta - log pi_sampler| likewise, nats
  double grad_norm = 0;          // before scaling; mean over the step's updates
  int64_t tokens = 0;            // prompt and response tokens that went through the policy
  std::string skipped;  // the term that was not finite, "" if none: that update changed nothing
};

/// Log-probs of every response token under a model, without gradient.   @return (B, T) float32, 0
/// beyond the responses
torch::Tensor score_log_probs(const Model& model, const Rollout& rollout, double temperature,
                              int64_t max_tokens);
/// V(s_t) of every response token: s_t is the prompt and the response before token t.   @return (B,
/// T) float32
torch::Tensor score_values(const Model& critic, const Rollout& rollout, int64_t max_tokens);

/// Updates the policy, and with it the value head of a shared trunk.
/// @param dump_directory  where a batch whose loss or gradient is not finite is saved for
/// inspection
UpdateStats update_policy(Model& policy, AdamW& optimizer, const Rollout& rollout,
                          const Experience& experience, const Config& config, double learning_rate,
                          int64_t step, const std::filesystem::path& dump_directory);
/// Updates a separate critic.   @return its mean value loss; nan if an update was skipped
double update_critic(Model& critic, AdamW& optimizer, const Rollout& rollout,
                     const Experience& experience, const Config& config, double learning_rate,
                     int64_t step);

/// Saves the step's tensors as not_finite_step_N.safetensors, to find out what went wrong.
void save_batch(const std::filesystem::path& directory, int64_t step, const Rollout& rollout,
                const Experience& experience);

}  // namespace tiny_zero
