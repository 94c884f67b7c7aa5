#pragma once
// PRIME: a reward for every token without labels of steps. A language model, the PRM, learns which
// responses are right; its log-prob less that of a frozen reference is the token's reward. Pure
// functions of tensors. B: responses of the rollout, T: the longest response; `mask` is (B, T)
// bool, true on sampled tokens, end token included.
//
// Where the sources differ: the baseline of the process rewards is the paper's; its code takes
// r_t G / (G - 1) less sum_j m_j / (G - 1), m_j the mean of response j's r, its own among them. The
// last token's process reward is 0 as in verl's port of the code. Scoring before the update scores
// the whole rollout with one PRM; the code's "after" scores each mini-batch as its turn comes.

#include <torch/types.h>

#include "tiny_zero/rollout.h"

namespace tiny_zero {

/// The settings by which the PRM learns: its own rate, no weight decay, one pass, and a loss that
/// is a mean over responses; warm-up and schedule are the policy's.
Config prm_config(const Config& config);

/// r_t = beta log(pi_phi / pi_ref).   [PRIME]
/// @param log_probs, ref_log_probs  nats, at temperature 1 whatever the sampler's, of one shape:
/// of the PRM and of what it started from
torch::Tensor implicit_rewards(const torch::Tensor& log_probs, const torch::Tensor& ref_log_probs,
                               double beta);

/// 1 for each response that the grader calls right, else 0.   @return (B,) float32
torch::Tensor right_responses(const Rollout& rollout);

/// Binary cross-entropy of sigmoid(sum_t r_t) with `right`; the sum is over all tokens.   [PRIME]
/// @param sums, right (B,)   @return (B,)
torch::Tensor prm_loss(const torch::Tensor& sums, const torch::Tensor& right);

/// What the policy is paid for each token: r_t, 0 for the last one, where the outcome's reward
/// stands, all divided by (the batch's largest |sum_{l >= t} r_l| + 1e-6).   [PRIME]
/// @param rewards (B, T) from implicit_rewards(), whatever beyond the responses   @return (B, T)
torch::Tensor process_rewards(const torch::Tensor& rewards, const torch::Tensor& mask);

/// A_t = sum_{l >= t} w_p (r_l - b) + w_o (R - mean of the others' R).   [PRIME]
/// Leave-one-out apart for both: b is the mean, over the group's other responses, of their r's mean
/// over tokens. KL in the reward is one more part of the sum. With whiten, which comes after, only
/// the ratio of w_p to w_o counts.
/// @param process (B, T) from process_rewards()   @param outcomes (B,) R, groups one after another
/// @param log_ratio (B, T) as in token_rewards()   @return (B, T), 0 beyond the responses
torch::Tensor prime_advantages(const torch::Tensor& process, const torch::Tensor& outcomes,
                               const torch::Tensor& mask, const torch::Tensor& log_ratio,
                               const Config& config);

}  // namespace tiny_zero
