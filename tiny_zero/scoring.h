#pragma once
// Scoring: log-probs and values of existing responses. They run packed with their prompts, in
// micro-batches, so memory is bounded and results do not depend on the batching.

#include "tiny_zero/rollout.h"

namespace tiny_zero {

/// A micro-batch: some responses with their prompts, packed, and where each response token stands.
/// N: response tokens.
struct ScoringBatch {
  PackedTokens tokens;      // prompt + response without its last token, which predicts nothing
  torch::Tensor positions;  // (N,) rows of the hidden states that predict a response token:
                            // logits[t] predict t + 1
  torch::Tensor targets;    // (N,) the response tokens
  torch::Tensor rows,
      columns;  // (N,) int64 on the CPU: the token's entry in the rollout's (B, T) tensors
  /// Log-probs of these tokens.   @return (N,) nats
  torch::Tensor log_probs(const Model& model, double temperature) const;
  /// V(s_t) of these tokens.   @return (N,)
  torch::Tensor values(const Model& critic) const;
  /// The (B, T) table's entries for these tokens.   @return (N,) on the model's device
  torch::Tensor pick(const torch::Tensor& table) const {
    return table.index({rows, columns}).to(targets.device());
  }
  /// Writes (N,) values into these entries of a (B, T) table on the CPU.
  void put(torch::Tensor& table, const torch::Tensor& values) const {
    table.index_put_({rows, columns}, values.cpu());
  }
};
/// A prompt runs once for responses that stand side by side, if the model's sequences may share.
ScoringBatch make_scoring_batch(const Rollout& rollout, const std::vector<int64_t>& responses,
                                const Model& model);

/// Splits responses into micro-batches of at most `max_tokens` tokens (one response at least):
/// those to one prompt together, where it runs once, else like lengths.
std::vector<std::vector<int64_t>> micro_batches(const Rollout& rollout,
                                                std::vector<int64_t> responses, int64_t max_tokens,
                                                const Model& model);

/// Log-probs of every response token under a model, without gradient.   @return (B, T) float32, 0
/// beyond the responses
torch::Tensor score_log_probs(const Model& model, const Rollout& rollout, double temperature,
                              int64_t max_tokens);
/// V(s_t) of every response token: s_t is the prompt and the response before token t.   @return (B,
/// T) float32
torch::Tensor score_values(const Model& critic, const Rollout& rollout, int64_t max_tokens);

}  // namespace tiny_zero
