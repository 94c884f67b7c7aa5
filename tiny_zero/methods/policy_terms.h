#pragma once
// The policy's term of the loss: PPO's clip, and what stands in its place in GSPO and CISPO.

#include "tiny_zero/loss.h"

namespace tiny_zero {

/// -sg[min(ratio, 1 + eps_high)] * A * log pi: the clip bounds a token's weight, and its gradient
/// stays [CISPO eq. 4, 5]. The lower bound is unused, as in the paper. eps_high is counted from 1,
/// as in verl; TRL's is the whole bound: its 5.0 is clip-high 4.0 here.
torch::Tensor cispo_loss(const torch::Tensor& log_probs, const torch::Tensor& old_log_probs,
                         const torch::Tensor& advantages, double clip_high);

/// The mean of x over each response, at every token of it.
/// @param x (N,) float32, whole responses   @param responses (N,) int64 on the CPU, whose token it
/// is
torch::Tensor response_means(const torch::Tensor& x, const torch::Tensor& responses);

struct PolicyTerms {
  torch::Tensor loss;     // (N,), carries the gradient
  torch::Tensor clipped;  // (N,) bool, where the bound decided
};
/// The policy's term of the loss by the setting policy-loss.
///   clip   policy_loss()
///   gspo   policy_loss() of the whole responses' ratios s_i = exp(mean_t log(pi / pi_old)), which
///          carry the gradient [GSPO eq. 5, 7]; advantages that differ within a response act by
///          their mean
///   cispo  cispo_loss()
/// @param responses  as in response_means()
PolicyTerms policy_terms(PolicyLoss kind, const torch::Tensor& log_probs,
                         const torch::Tensor& old_log_probs, const torch::Tensor& advantages,
                         double clip_low, double clip_high, const torch::Tensor& responses);

}  // namespace tiny_zero
