#pragma once
// Losses per token: pure functions of tensors of one shape, (B, T) or the packed (N,) of a
// micro-batch. All are to be minimised and none reduces: loss_weights() says what each token
// counts, over the whole step [T2].

#include <torch/types.h>

#include "tiny_zero/settings/config.h"

namespace tiny_zero {

/// Clipped policy loss per token.
///   ratio = exp(log_probs - old_log_probs)                                       [PPO eq. 6]
///   loss  = -min(ratio * A, clip(ratio, 1 - eps_low, 1 + eps_high) * A)          [PPO eq. 7],
///   negated
/// The same term stands in [GRPO eq. 1, 3]; only the advantages differ. Unequal bounds are
/// clip-higher [DAPO].
/// @param log_probs, old_log_probs  float32, nats; the first carries the gradient, the second is as
/// sampled
/// @param advantages  float32, constant
/// @throws c10::Error if the shapes differ
torch::Tensor policy_loss(const torch::Tensor& log_probs, const torch::Tensor& old_log_probs,
                          const torch::Tensor& advantages, double clip_low, double clip_high);

/// True where the clip decided the loss, so that the token gave no gradient.
torch::Tensor policy_clipped(const torch::Tensor& log_probs, const torch::Tensor& old_log_probs,
                             const torch::Tensor& advantages, double clip_low, double clip_high);

/// Estimators of KL(policy || reference) from a token of the policy, with d = log pi_ref - log pi,
/// held in [-20, 20] [T13]:
///   k1 = -d             unbiased; its gradient has mean zero: for the reward, never the loss
///   k2 = d^2 / 2        biased value; its gradient is that of the KL
///   k3 = e^d - d - 1    unbiased and never negative; its gradient is that of the reverse KL [GRPO
///   eq. 4]
torch::Tensor kl_k1(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);
torch::Tensor kl_k2(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);
torch::Tensor kl_k3(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);

/// (V - R)^2 / 2; with clip > 0 the larger of it and the same for V held within old_values +- clip.
///   ["The 37 implementation details of PPO", value loss clipping]
torch::Tensor value_loss(const torch::Tensor& values, const torch::Tensor& old_values,
                         const torch::Tensor& returns, double clip);

/// What each token counts in the step's loss: the loss is sum(weights * per-token loss), in however
/// many micro-batches.
///   token:     1 / tokens of the step
///   sequence:  1 / |o_i| / responses      [GRPO eq. 3]
///   constant:  1 / max_response_tokens / responses   [Dr. GRPO]
/// @param mask (B, T) bool: a response without a true entry counts nowhere   @return (B, T)
/// float32, 0 off the mask
torch::Tensor loss_weights(const torch::Tensor& mask, Aggregation aggregation,
                           int64_t max_response_tokens);

}  // namespace tiny_zero
