#include "tiny_zero/scoring.h"

#include <algorithm>

namespace tiny_zero {

using torch::Tensor;

ScoringBatch make_scoring_batch(const Rollout& rollout, const std::vector<int64_t>& responses,
                                const torch::Device& device) {
  std::vector<std::vector<int64_t>> sequences;
  std::vector<int64_t> positions, targets, rows, columns;
  int64_t offset = 0;
  const auto ids = rollout.response_ids.accessor<int64_t, 2>();
  for (const int64_t i : responses) {
    auto sequence = rollout.prompt_of(i);
    const auto prompt = static_cast<int64_t>(sequence.size());
    for (int64_t t = 0; t < rollout.lengths[i]; ++t) {
      positions.push_back(offset + prompt - 1 + t);
      targets.push_back(ids[i][t]);
      rows.push_back(i);
      columns.push_back(t);
      if (t + 1 < rollout.lengths[i]) sequence.push_back(ids[i][t]);
    }
    offset += static_cast<int64_t>(sequence.size());
    sequences.push_back(std::move(sequence));
  }
  const auto tensor = [](const std::vector<int64_t>& x) { return torch::tensor(x, torch::kInt64); };
  return {PackedTokens::from(sequences, device), tensor(positions).to(device),
          tensor(targets).to(device), tensor(rows), tensor(columns)};
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
                                                const std::set<int64_t>& apart) {
  const auto tokens = [&](int64_t i) {
    return static_cast<int64_t>(rollout.prompt_of(i).size()) + rollout.lengths[i];
  };
  std::ranges::stable_sort(responses, {},
                           [&](int64_t i) { return std::pair(apart.contains(i), -tokens(i)); });
  std::vector<std::vector<int64_t>> batches;
  int64_t room = 0;
  for (const int64_t i : responses) {
    if (batches.empty() || tokens(i) > room ||
        apart.contains(i) != apart.contains(batches.back()[0])) {
      batches.emplace_back();
      room = max_tokens;
    }
    batches.back().push_back(i);
    room -= tokens(i);
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
  for (const auto& responses : micro_batches(rollout, count_up(rollout.size()), max_tokens)) {
    const ScoringBatch batch = make_scoring_batch(rollout, responses, model.device());
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
