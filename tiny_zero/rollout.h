#pragma once
// Sampling: prompts in, responses with the log-probs they were sampled with out. Token in, token
// out: text is decoded for the grader only and never encoded again [T21].

#include "tiny_zero/files/tokenizer.h"
#include "tiny_zero/model.h"
#include "tiny_zero/random.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// Responses to a list of prompts, `group_size` each: response i answers prompt i / group_size
/// [T29]. B: responses, T: the longest response. Everything lies on the CPU.
struct Rollout {
  int64_t group_size = 1;                     // G
  std::vector<Problem> problems;              // one a prompt
  std::vector<std::vector<int64_t>> prompts;  // token ids
  torch::Tensor response_ids;                 // (B, T) int64, 0 beyond the response
  torch::Tensor log_probs;                    // (B, T) float32, nats, as sampled
  torch::Tensor mask;            // (B, T) bool from the lengths, end token included [T1]
  std::vector<int64_t> lengths;  // tokens of each response, end token included
  std::vector<bool>
      finished;  // ended by the model; false: cut at the limit, nothing appended [T15]
  std::vector<std::string> texts;  // end token left out
  std::vector<Grade> grades;       // filled by grade()
  torch::Tensor rewards;           // (B,) float32, filled by grade()

  int64_t size() const { return static_cast<int64_t>(lengths.size()); }
  int64_t response_tokens() const;
  const std::vector<int64_t>& prompt_of(int64_t response) const {
    return prompts[response / group_size];
  }
  const Problem& problem_of(int64_t response) const { return problems[response / group_size]; }
};

struct SamplingOptions {
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t max_response_tokens = 224;
  int64_t batch = 512;  // responses side by side; whole groups, at least one
  uint64_t seed = 0;
  Stream stream = Stream::sampling;
  std::function<void(int64_t response, int64_t id)> on_token =
      {};  // called as each token is sampled
};
SamplingOptions sampling_options(const Config& config, double temperature,
                                 Stream stream = Stream::sampling);

class Sampler {
 public:
  Sampler(const Model& policy, const SamplingOptions& options)
      : policy_(policy), options_(options) {}
  /// Samples `group_size` responses per problem. A response depends on the seed and the stream, on
  /// `call` (which call of a run this is) and on its row, not on the batch it happened to be in.
  /// @throws std::invalid_argument if a prompt is empty or does not fit the model with its response
  Rollout sample(const Tokenizer& tokenizer, std::vector<Problem> problems, int64_t group_size,
                 int64_t call);
  /// The same for prompts that are tokens already: fills everything but problems and texts.
  Rollout sample(std::vector<std::vector<int64_t>> prompts, int64_t group_size, int64_t call);

 private:
  void sample_batch(const Model& model, Rollout& rollout, int64_t first_prompt, int64_t num_prompts,
                    int64_t call);

  const Model& policy_;
  SamplingOptions options_;
  std::vector<KvCache> cache_;  // kept between calls: fresh memory costs page faults
};

/// Grades every response and fills `grades` and `rewards`.
void grade(const Task& task, Rollout& rollout);

/// The rows of both rollouts, in order; group sizes must agree.
Rollout concatenate(const Rollout& a, const Rollout& b);
/// The groups of these prompts, in this order.
Rollout select_prompts(const Rollout& rollout, const std::vector<int64_t>& prompts);

/// A micro-batch: some responses with their prompts, packed, and where each response token stands.
struct ScoringBatch {
  PackedTokens tokens;      // prompt + response without its last token, which predicts nothing
  torch::Tensor positions;  // (N,) rows of the hidden states that predict a response token:
                            // logits[t] predict t + 1
  torch::Tensor targets;    // (N,) the response tokens
  torch::Tensor rows,
      columns;  // (N,) int64 on the CPU: the token's place in the rollout's (B, T) tensors
  /// The (B, T) tensor's entries for these tokens, (N,) on the model's device.
  torch::Tensor pick(const torch::Tensor& table) const {
    return table.index({rows, columns}).to(targets.device());
  }
};
ScoringBatch make_scoring_batch(const Rollout& rollout, const std::vector<int64_t>& responses,
                                const torch::Device& device);

/// Splits responses into micro-batches of at most `max_tokens` tokens (one response at least), like
/// lengths together.
std::vector<std::vector<int64_t>> micro_batches(const Rollout& rollout,
                                                std::vector<int64_t> responses, int64_t max_tokens);

}  // namespace tiny_zero
