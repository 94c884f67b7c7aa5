#include "tiny_zero/scoring.h"

#include <algorithm>

namespace tiny_zero {

using torch::Tensor;

ScoringBatch make_scoring_batch(const Rollout& rollout, const std::vector<int64_t>& responses,
                                const Model& model) {
  std::vector<std::vector<int64_t>> sequences;
  std::vector<int64_t> positions, targets, rows, columns, shared;
  int64_t offset = 0, last_of_prompt = 0;
  const auto ids = rollout.response_ids.accessor<int64_t, 2>();
  for (const int64_t i : responses) {
    auto sequence = rollout.prompt_of(i);
    const bool again = model.shares_tokens() && !rows.empty() &&
                       rows.back() / rollout.group_size == i / rollout.group_size;
    shared.push_back(again ? std::ssize(sequence) : 0);  // the prompt runs once for its responses
    if (again) sequence.clear();
    if (!again) last_of_prompt = offset + std::ssize(sequence) - 1;
    for (int64_t t = 0; t < rollout.lengths[i]; ++t) {
      positions.push_back(t == 0 ? last_of_prompt : offset + std::ssize(sequence) - 1);
      targets.push_back(ids[i][t]);
      rows.push_back(i);
      columns.push_back(t);
      if (t + 1 < rollout.lengths[i]) sequence.push_back(ids[i][t]);
    }
    offset += static_cast<int64_t>(sequence.size());
    sequences.push_back(std::move(sequence));
  }
  const auto device = model.device();
  return {PackedTokens::from(sequences, device, shared), torch::tensor(positions).to(device),
          torch::tensor(targets).to(device), torch::tensor(rows), torch::tensor(columns)};
}

Tensor ScoringBatch::log_probs(const Model& model, double temperature) const {
  const Tensor hidden = model.hidden_states(tokens);
  return model.log_probs(hidden, positions, targets, temperature, /*with_entropy=*/false).log_probs;
}

Tensor ScoringBatch::values(const Model& critic) const {
  return critic.values(critic.hidden_states(tokens), positions);
}

std::vector<std::vector<int64_t>> micro_batches(const Rollout& rollout,
                                                std::vector<int64_t> responses, int64_t max_tokens,
                                                const Model& model) {
  const bool shares = model.shares_tokens();
  const auto tokens = [&](int64_t i) {
    return std::ssize(rollout.prompt_of(i)) + rollout.lengths[i];
  };
  std::ranges::stable_sort(responses, {}, [&](int64_t i) { return shares ? i : -tokens(i); });
  std::vector<std::vector<int64_t>> batches;
  int64_t room = 0, group = -1;
  for (const int64_t i : responses) {
    room -= shares && i / rollout.group_size == group ? rollout.lengths[i] : tokens(i);
    group = i / rollout.group_size;
    if (batches.empty() || room < 0) {
      batches.emplace_back();
      room = max_tokens - tokens(i);
    }
    batches.back().push_back(i);
  }
  return batches;
}

namespace {

/// Runs `score` on every micro-batch without gradient and returns the per-token results as (B, T).
template <class Score>
Tensor score_tokens(const Model& model, const Rollout& rollout, int64_t max_tokens,
                    const Score& score) {
  const at::NoGradGuard no_grad;
  Tensor table = torch::zeros_like(rollout.log_probs);
  for (const auto& responses :
       micro_batches(rollout, count_up(rollout.size()), max_tokens, model)) {
    const ScoringBatch batch = make_scoring_batch(rollout, responses, model);
    batch.put(table, score(batch));
  }
  return table;
}

}  // namespace

Tensor score_log_probs(const Model& model, const Rollout& rollout, double temperature,
                       int64_t max_tokens) {
  return score_tokens(model, rollout, max_tokens, [&](const ScoringBatch& batch) {
    return batch.log_probs(model, temperature);
  });
}

Tensor score_values(const Model& critic, const Rollout& rollout, int64_t max_tokens) {
  return score_tokens(critic, rollout, max_tokens,
                      [&](const ScoringBatch& batch) { return batch.values(critic); });
}

}  // namespace tiny_zero
