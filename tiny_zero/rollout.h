#pragma once
// Sampling: turns prompts into responses, with the log-prob of each token as it was sampled. Token
// in, token out: text is decoded for the grader only and never encoded again [T21].

#include <numeric>

#include "tiny_zero/files/tokenizer.h"
#include "tiny_zero/model.h"
#include "tiny_zero/random.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// Responses to a list of prompts, `group_size` each: response i answers prompt i / group_size
/// [T29]. B: responses, T: the longest response. All tensors are on the CPU.
struct Rollout {
  int64_t group_size = 1;                     // G
  std::vector<Problem> problems;              // one per prompt
  std::vector<std::vector<int64_t>> prompts;  // token ids
  torch::Tensor response_ids;                 // (B, T) int64, 0 beyond the response
  torch::Tensor log_probs;                    // (B, T) float32, nats, as sampled
  torch::Tensor mask;              // (B, T) bool from the lengths, end token included [T1]
  std::vector<int64_t> lengths;    // tokens of each response, end token included
  std::vector<bool> finished;      // by an end token or the stop text; false: truncated, nothing
                                   // appended [T15]
  std::vector<std::string> texts;  // an end token left out, the stop text not
  std::vector<Grade> grades;       // filled by grade()
  torch::Tensor rewards;           // (B,) float32, filled by grade(), shaped by collect()

  int64_t size() const { return static_cast<int64_t>(lengths.size()); }
  int64_t response_tokens() const;
  const std::vector<int64_t>& prompt_of(int64_t response) const {
    return prompts[response / group_size];
  }
  const Problem& problem_of(int64_t response) const { return problems[response / group_size]; }
};

/// 0, 1, ..., size - 1: all of so many prompts or responses.
inline std::vector<int64_t> count_up(int64_t size) {
  std::vector<int64_t> numbers(size);
  std::iota(numbers.begin(), numbers.end(), int64_t{0});
  return numbers;
}

/// Told how much of a long piece of work is done.
using OnProgress = std::function<void(int64_t done, int64_t total)>;

struct SamplingOptions {
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t max_response_tokens = 224;
  int64_t batch = 512;  // responses sampled in parallel: whole groups, at least one
  uint64_t seed = 0;
  Stream stream = Stream::sampling;
  std::string stop_text = {};  // ends a response whose text holds it; needs the tokenizer
  std::function<void(int64_t response, int64_t id)> on_token = {};  // called for each new token
  OnProgress on_progress = {};  // called after each position: responses ended, of all
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
  /// @param tokenizer  finds the stop text; null if there is none
  Rollout sample(std::vector<std::vector<int64_t>> prompts, int64_t group_size, int64_t call,
                 const Tokenizer* tokenizer = nullptr);

 private:
  void sample_batch(const Model& model, Rollout& rollout, int64_t first_prompt, int64_t num_prompts,
                    int64_t call, const Tokenizer* tokenizer);

  const Model& policy_;
  SamplingOptions options_;
  std::vector<KvCache> cache_;  // kept between calls: fresh memory costs page faults
};

/// Grades every response and fills `grades` and `rewards`.
void grade(const Task& task, Rollout& rollout);

/// The rewards, with truncation-penalty for truncated responses if truncated = penalise [T16]. With
/// soft, less what a long response costs: 0 up to L - C tokens, then growing evenly to 1 at L, for
/// L max-response-tokens and C overlong-buffer [DAPO eq. 13].
/// @return (B,)
torch::Tensor shaped_rewards(const Rollout& rollout, const Config& config);

/// Tokens in the loss: the rollout's mask, without truncated responses if truncated = mask [T16].
/// @return (B, T) bool
torch::Tensor loss_mask(const Rollout& rollout, Truncated truncated);

/// Groups whose rewards differ; under GRPO the policy gradient of the others is zero [DAPO].
/// @return their numbers, in order
std::vector<int64_t> mixed_groups(const Rollout& rollout);

/// Of these groups, those whose share of right responses lies within kept-accuracy-min and -max.
std::vector<int64_t> within_accuracy(const Rollout& rollout, std::vector<int64_t> groups,
                                     const Config& config);

/// Sums over everything that was sampled in a step, the groups that were dropped included [T37].
struct SamplingStats {
  int64_t rounds = 0, prompts = 0, responses = 0, tokens = 0;
  int64_t correct = 0, formatted = 0, answered = 0, reflected = 0, truncated = 0,
          zero_std_groups = 0;
  double reward_sum = 0;  // of the shaped rewards
  void add(const Rollout& round);
};

struct Collection {
  Rollout rollout;  // to learn from
  SamplingStats sampled;
  torch::Tensor sampled_rewards;  // (C,) shaped, of the C responses that were sampled
  std::vector<Grade> sampled_grades;
  std::vector<int64_t> kept_groups;  // of those, the ones that make the rollout
};

/// One step's rollout. With dynamic sampling, rounds go on until prompts-per-step groups have
/// different rewards, ten at most, so a task whose groups are all right or all wrong cannot stall
/// the run [DAPO]. What truncated = soft takes away makes no difference: it would let groups pass
/// that are all right or all wrong.
/// @param sample_round  samples and grades responses to the next prompts-per-step problems
Collection collect(const std::function<Rollout()>& sample_round, const Config& config);

/// The rows of both rollouts, in order; group sizes must agree.
Rollout concatenate(const Rollout& a, const Rollout& b);
/// The groups of these prompts, in this order.
Rollout select_prompts(const Rollout& rollout, const std::vector<int64_t>& prompts);

}  // namespace tiny_zero
