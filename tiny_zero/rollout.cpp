#include "tiny_zero/rollout.h"

#include <algorithm>
#include <numeric>

#include "tiny_zero/random.h"

namespace tiny_zero {

using torch::Tensor;

int64_t Rollout::response_tokens() const {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

namespace {

/// Fills the (B, T) tensors' shapes from the lengths: trims to the longest response and marks the
/// mask.
void trim_and_mask(Rollout& rollout) {
  const int64_t longest = *std::max_element(rollout.lengths.begin(), rollout.lengths.end());
  rollout.response_ids = rollout.response_ids.narrow(1, 0, longest).contiguous();
  rollout.log_probs = rollout.log_probs.narrow(1, 0, longest).contiguous();
  rollout.mask = torch::arange(longest).unsqueeze(0) < torch::tensor(rollout.lengths).unsqueeze(1);
}

}  // namespace

SamplingOptions sampling_options(const Config& config, double temperature, Stream stream) {
  return {temperature,
          config.top_p,
          config.max_response_tokens,
          config.rollout_batch,
          static_cast<uint64_t>(config.seed),
          stream};
}

Rollout Sampler::sample(const Tokenizer& tokenizer, std::vector<Problem> problems,
                        int64_t group_size, int64_t call) {
  std::vector<std::vector<int64_t>> prompts;
  for (const auto& problem : problems) prompts.push_back(tokenizer.encode_prompt(problem.prompt));
  Rollout rollout = sample(std::move(prompts), group_size, call);
  rollout.problems = std::move(problems);
  for (int64_t i = 0; i < rollout.size(); ++i) {
    const int64_t* ids = rollout.response_ids[i].data_ptr<int64_t>();
    const int64_t shown = rollout.lengths[i] - (rollout.finished[i] ? 1 : 0);
    rollout.texts.push_back(tokenizer.decode({ids, static_cast<size_t>(shown)}));
  }
  return rollout;
}

Rollout Sampler::sample(std::vector<std::vector<int64_t>> prompts, int64_t group_size,
                        int64_t call) {
  const at::NoGradGuard no_grad;
  for (const auto& prompt : prompts) {
    const auto length = static_cast<int64_t>(prompt.size()), limit = policy_.config().max_positions;
    if (length == 0 || length + options_.max_response_tokens > limit) {
      throw std::invalid_argument(
          "a prompt of " + std::to_string(length) + " tokens and max-response-tokens " +
          std::to_string(options_.max_response_tokens) + " do not fit the model's " +
          std::to_string(limit) + " positions; the prompt must not be empty");
    }
  }
  const int64_t num_prompts = static_cast<int64_t>(prompts.size()),
                responses = num_prompts * group_size;
  Rollout rollout;
  rollout.group_size = group_size;
  rollout.prompts = std::move(prompts);
  rollout.response_ids = torch::zeros({responses, options_.max_response_tokens}, torch::kInt64);
  rollout.log_probs = torch::zeros({responses, options_.max_response_tokens});
  rollout.lengths.assign(responses, 0);
  rollout.finished.assign(responses, false);
  const Model model = policy_.narrowed();
  const int64_t prompts_per_batch = std::max<int64_t>(1, options_.batch / group_size);
  for (int64_t first = 0; first < num_prompts; first += prompts_per_batch) {
    sample_batch(model, rollout, first, std::min(prompts_per_batch, num_prompts - first), call);
  }
  trim_and_mask(rollout);
  return rollout;
}

void Sampler::sample_batch(const Model& model, Rollout& rollout, int64_t first_prompt,
                           int64_t num_prompts, int64_t call) {
  const int64_t group = rollout.group_size, rows = num_prompts * group,
                first_response = first_prompt * group;
  const std::vector<std::vector<int64_t>> prompts(
      rollout.prompts.begin() + first_prompt, rollout.prompts.begin() + first_prompt + num_prompts);
  const auto longest =
      std::max_element(prompts.begin(), prompts.end(),
                       [](const auto& a, const auto& b) { return a.size() < b.size(); });
  const int64_t capacity = static_cast<int64_t>(longest->size()) + options_.max_response_tokens;
  if (cache_.empty() || cache_[0].values.size(0) < rows || cache_[0].capacity() < capacity) {
    cache_.clear();
    cache_ = model.make_cache(rows, capacity);
  }
  const auto& end_ids = model.config().end_ids;
  Tensor logits = model.prefill(PackedTokens::from(prompts, model.device()), cache_, group)
                      .repeat_interleave(group, /*dim=*/0);

  std::vector<int64_t> active(
      rows);  // rows of the cache that still grow: finished ones leave and cost nothing
  std::iota(active.begin(), active.end(), int64_t{0});
  auto ids = rollout.response_ids.accessor<int64_t, 2>();
  auto log_probs = rollout.log_probs.accessor<float, 2>();
  for (int64_t t = 0; !active.empty(); ++t) {
    Tensor uniforms = torch::empty({static_cast<int64_t>(active.size())}, torch::kFloat64);
    for (size_t i = 0; i < active.size(); ++i) {
      uniforms.data_ptr<double>()[i] =
          random_uniform(options_.seed, options_.stream, call, first_response + active[i], t);
    }
    const SampledTokens sampled =
        sample_tokens(logits, uniforms, options_.temperature, options_.top_p);
    const Tensor new_ids = sampled.ids.cpu(), new_log_probs = sampled.log_probs.cpu();
    std::vector<int64_t> going, next_ids, positions;
    for (size_t i = 0; i < active.size(); ++i) {
      const int64_t response = first_response + active[i], id = new_ids.data_ptr<int64_t>()[i];
      ids[response][t] = id;
      if (options_.on_token) options_.on_token(response, id);
      log_probs[response][t] = new_log_probs.data_ptr<float>()[i];
      rollout.lengths[response] = t + 1;
      rollout.finished[response] = std::find(end_ids.begin(), end_ids.end(), id) != end_ids.end();
      if (rollout.finished[response] || t + 1 == options_.max_response_tokens) continue;
      going.push_back(active[i]);
      next_ids.push_back(id);
      positions.push_back(static_cast<int64_t>(prompts[active[i] / group].size()) + t);
    }
    active = std::move(going);
    if (active.empty()) break;
    logits = model.decode(torch::tensor(next_ids), torch::tensor(active), torch::tensor(positions),
                          cache_);
  }
}

void grade(const Task& task, Rollout& rollout) {
  rollout.grades.clear();
  std::vector<float> scores;
  for (int64_t i = 0; i < rollout.size(); ++i) {
    rollout.grades.push_back(
        task.grade(rollout.problem_of(i), rollout.texts[i], rollout.finished[i]));
    scores.push_back(static_cast<float>(rollout.grades.back().reward));
  }
  rollout.rewards = torch::tensor(scores);
}

Rollout concatenate(const Rollout& a, const Rollout& b) {
  TORCH_CHECK(a.group_size == b.group_size, "concatenate: group sizes ", a.group_size, " and ",
              b.group_size, " differ");
  Rollout both = a;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(both.problems, b.problems);
  append(both.prompts, b.prompts);
  append(both.lengths, b.lengths);
  append(both.finished, b.finished);
  append(both.texts, b.texts);
  append(both.grades, b.grades);
  const int64_t width = std::max(a.response_ids.size(1), b.response_ids.size(1));
  const auto stack = [&](const Tensor& x, const Tensor& y) {
    return torch::cat({torch::constant_pad_nd(x, {0, width - x.size(1)}),
                       torch::constant_pad_nd(y, {0, width - y.size(1)})});
  };
  both.response_ids = stack(a.response_ids, b.response_ids);
  both.log_probs = stack(a.log_probs, b.log_probs);
  both.rewards = torch::cat({a.rewards, b.rewards});
  trim_and_mask(both);
  return both;
}

Rollout select_prompts(const Rollout& rollout, const std::vector<int64_t>& prompts) {
  Rollout chosen;
  chosen.group_size = rollout.group_size;
  std::vector<int64_t> rows;
  for (const int64_t p : prompts) {
    chosen.problems.push_back(rollout.problems[p]);
    chosen.prompts.push_back(rollout.prompts[p]);
    for (int64_t i = p * rollout.group_size; i < (p + 1) * rollout.group_size; ++i) {
      rows.push_back(i);
      chosen.lengths.push_back(rollout.lengths[i]);
      chosen.finished.push_back(rollout.finished[i]);
      chosen.texts.push_back(rollout.texts[i]);
      chosen.grades.push_back(rollout.grades[i]);
    }
  }
  const Tensor index = torch::tensor(rows, torch::kInt64);
  chosen.response_ids = rollout.response_ids.index_select(0, index);
  chosen.log_probs = rollout.log_probs.index_select(0, index);
  chosen.rewards = rollout.rewards.index_select(0, index);
  trim_and_mask(chosen);
  return chosen;
}

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

std::vector<std::vector<int64_t>> micro_batches(const Rollout& rollout,
                                                std::vector<int64_t> responses,
                                                int64_t max_tokens) {
  const auto tokens = [&](int64_t i) {
    return static_cast<int64_t>(rollout.prompt_of(i).size()) + rollout.lengths[i];
  };
  std::stable_sort(responses.begin(), responses.end(),
                   [&](int64_t a, int64_t b) { return tokens(a) > tokens(b); });
  std::vector<std::vector<int64_t>> batches;
  int64_t room = 0;
  for (const int64_t i : responses) {
    if (batches.empty() || tokens(i) > room) {
      batches.emplace_back();
      room = max_tokens;
    }
    batches.back().push_back(i);
    room -= tokens(i);
  }
  return batches;
}

}  // namespace tiny_zero
