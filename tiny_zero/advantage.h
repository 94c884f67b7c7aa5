#pragma once
// Advantages: how much better a response, or a token, did than expected. Pure functions of tensors.
// B: responses of the rollout, T: the longest response. `mask` is (B, T) bool, true on sampled
// tokens, end token included.

#include <torch/types.h>

#include "tiny_zero/rollout.h"
#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// Per-token rewards: the response's reward on its last sampled token [T15], and the KL penalty
/// -beta log(pi_old / pi_ref) on every token.   [GRPO eq. 2]
/// @param rewards (B,)   @param log_ratio (B, T) of old to reference, nats, or undefined for no KL
/// in the reward
/// @return (B, T) float32, 0 beyond the responses
torch::Tensor token_rewards(const torch::Tensor& rewards, const torch::Tensor& mask,
                            const torch::Tensor& log_ratio, double kl_coef);

/// x_t + x_{t+1} + ...: what is still to come of a per-token reward.   @param x (B, T)
torch::Tensor sum_to_come(const torch::Tensor& x);

/// A_i = (r_i - baseline) / deviation over the G responses to one prompt.   [GRPO, outcome
/// supervision] The baseline is the group's mean, or the mean of the others [RLOO]. The deviation
/// is over n - 1 or n, with epsilon added, or left out [Dr. GRPO, T7]. A group whose rewards are
/// all equal gets exactly 0 [T5]; the variance is two-pass [T6].
/// @param rewards (B,), groups one after another   @return (B,) float32
torch::Tensor group_advantages(const torch::Tensor& rewards, int64_t group_size, GroupStd deviation,
                               double epsilon, Baseline baseline);

struct Gae {
  torch::Tensor advantages;  // (B, T), 0 beyond the responses
  torch::Tensor returns;     // (B, T), A_t + V(s_t): the critic's target
};

/// delta_t = r_t + gamma V(s_{t+1}) - V(s_t),  A_t = sum_l (gamma lambda)^l delta_{t+l}.
///   [GAE eq. 16; PPO eq. 11, 12]
/// The value after the last token is 0, whatever the padding holds [T14].
/// @param rewards, values (B, T) float32
Gae generalized_advantages(const torch::Tensor& rewards, const torch::Tensor& values,
                           const torch::Tensor& mask, double gamma, double lambda);

/// (x - mean) / deviation over the masked entries of the whole rollout, 0 elsewhere [T18].
/// Deviation over n.
torch::Tensor whiten(const torch::Tensor& x, const torch::Tensor& mask);

/// 1 - Var(returns - values) / Var(returns) over the masked entries: 1 is a perfect critic, 0
/// predicts only the mean. Also 0 if the returns vary only by rounding [T39].
double explained_variance(const torch::Tensor& values, const torch::Tensor& returns,
                          const torch::Tensor& mask);

/// Rewards, reference log-probs and values of a rollout, fixed for the step. On the CPU.
struct Judgement {
  torch::Tensor rewards;  // (B,) what each response earned
  torch::Tensor
      loss_mask;  // (B, T) bool: the rollout's mask, less what truncated = mask leaves out
  torch::Tensor ref_log_probs;         // (B, T); undefined without a reference
  torch::Tensor values;                // (B, T) V(s_t); undefined without a critic
  torch::Tensor process_rewards = {};  // (B, T) of each token; undefined without a PRM [PRIME]
  // (B, T) of the policy as the trainer scores it before the first of several updates; undefined
  // unless TIS asks for it
  torch::Tensor old_log_probs = {};
  torch::Tensor steps = {};  // (S, 3) reward_steps(), with supervision = process
};

struct Advantages {
  torch::Tensor advantages;  // (B, T), 0 beyond the responses
  torch::Tensor returns;     // (B, T) the critic's target; undefined without a critic
};

/// The algorithms differ only here, and in the networks that their estimators need: PPO's critic,
/// PRIME's process reward model.
///   ppo: GAE over the token rewards
///   grpo: group_advantages() on every token, or those of steps (supervision) [GRPO 4.1.3]
///   prime: prime_advantages(), whitened if asked for [PRIME]
///   reinforce: the response's reward on every token, normalised over the batch [REINFORCE++]
///   rft: 1 on the tokens of right responses, else 0: online RFT [GRPO 5.2], which has no ratio and
///   so no clip: it is that with one update per rollout
/// With kl = reward, PPO and PRIME add the KL penalty to the rewards [GRPO eq. 2]. GRPO and
/// REINFORCE++ subtract the penalty still to come, beta sum_{l >= t} log(pi_old / pi_ref), after
/// normalising, which departs from both: dividing it by a deviation would cancel beta where all
/// rewards are equal [T36].
Advantages estimate_advantages(const Rollout& rollout, const Judgement& judgement,
                               const Config& config);

}  // namespace tiny_zero
