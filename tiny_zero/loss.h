#pragma once
// Losses per token: pure functions of tensors of one shape, (B, T) or the packed (N,) of a
// micro-batch. All are minimised and none is reduced: loss_weights() gives each token's weight in
// the mini-batch's loss [T2], and LossTerms adds the terms up.

#include <torch/types.h>

#include <map>
#include <string>

#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// Clipped policy loss per token.
///   ratio = exp(log_probs - old_log_probs)                                         [PPO eq. 6]
///   loss  = -min(ratio * A, clip(ratio, 1 - eps_low, 1 + eps_high) * A)            [PPO eq. 7]
/// The same term appears in [GRPO eq. 1, 3]; only the advantages differ. Unequal bounds are
/// clip-higher [DAPO].
/// @param log_probs  float32, nats, carries the gradient   @param old_log_probs  as sampled,
/// constant
/// @param advantages  float32, constant
/// @throws c10::Error if the shapes differ
torch::Tensor policy_loss(const torch::Tensor& log_probs, const torch::Tensor& old_log_probs,
                          const torch::Tensor& advantages, double clip_low, double clip_high);

/// True where the clip decided the loss, so that the token gave no gradient.   @return bool, (B, T)
torch::Tensor policy_clipped(const torch::Tensor& log_probs, const torch::Tensor& old_log_probs,
                             const torch::Tensor& advantages, double clip_low, double clip_high);

/// Estimators of KL(policy || reference) per token, with d = log pi_ref - log pi clamped to [-20,
/// 20] [T13]:
///   k1 = -d           unbiased; its gradient has mean zero: for the reward, never the loss
///   k2 = d^2 / 2      biased value; its gradient is that of KL(policy || reference)
///   k3 = e^d - d - 1  unbiased, never negative; its gradient is that of KL(reference || policy)
///                     [GRPO eq. 4]
/// @return the shape of the inputs
torch::Tensor kl_k1(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);
torch::Tensor kl_k2(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);
torch::Tensor kl_k3(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs);

/// (V - R)^2 / 2; with clip > 0 the larger of this and the same loss with V clamped to old_values
/// +- clip.
///   ["The 37 implementation details of PPO", value loss clipping]
torch::Tensor value_loss(const torch::Tensor& values, const torch::Tensor& old_values,
                         const torch::Tensor& returns, double clip);

/// The weight of each token in its mini-batch's loss, which is sum(weights * per-token loss), in
/// however many micro-batches.
///   token:     1 / tokens of the mini-batch               [DAPO]
///   sequence:  1 / |o_i| / responses                      [GRPO eq. 3]
///   constant:  1 / max_response_tokens / responses        [Dr. GRPO]
/// @param mask (B, T) bool, of the mini-batch; a response that is fully masked is not counted
/// @return (B, T) float32, 0 outside the mask
torch::Tensor loss_weights(const torch::Tensor& mask, Aggregation aggregation,
                           int64_t max_response_tokens);

/// A mini-batch's loss as a sum of named terms. Each is added, logged and checked under one name.
class LossTerms {
 public:
  static constexpr const char* kTotal =
      "total";  // the loss among the sums: no term may be called so
  /// Starts the next micro-batch.   @param weights (N,) its tokens' part of loss_weights()
  void start(const torch::Tensor& weights);
  /// Adds coefficient * sum(weights * per_token) to the loss and logs the term; coefficient 0 only
  /// logs.
  /// @param per_token (N,)
  void add(const std::string& name, const torch::Tensor& per_token, double coefficient = 1.0);
  /// The micro-batch's part of the mini-batch's loss, a scalar with gradient.
  const torch::Tensor& loss() const { return loss_; }

  /// Once all micro-batches are in. Reads the device once.
  void finish();
  /// Each term's sum(weights * per_token), before its coefficient, and "total", the loss.
  const std::map<std::string, double>& sums() const { return sums_; }
  /// Sum of all weights: 0 if no token is in the loss.
  double weight() const { return weight_; }
  /// The term's mean over the mini-batch's tokens, weighted as the loss weighs them.
  double mean(const std::string& name) const { return sums_.at(name) / weight_; }
  /// The first term that is not finite, "" if all are.
  std::string not_finite() const;

 private:
  torch::Tensor weights_, loss_, total_weight_;
  std::map<std::string, torch::Tensor> running_;  // on the device until finish()
  std::map<std::string, double> sums_;
  double weight_ = 0;
};

}  // namespace tiny_zero
