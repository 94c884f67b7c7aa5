#include "tiny_zero/rollout.h"

#include <algorithm>

#include "tiny_zero/random.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

using torch::Tensor;

int64_t Rollout::response_tokens() const {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

namespace {

/// Trims the (B, T) tensors to the longest response and sets the mask from the lengths.
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
          stream,
          config.stop_text};
}

Rollout Sampler::sample(const Tokenizer& tokenizer, std::vector<Problem> problems,
                        int64_t group_size, int64_t call) {
  std::vector<std::vector<int64_t>> prompts;
  for (const auto& problem : problems) prompts.push_back(tokenizer.encode_prompt(problem.prompt));
  Rollout rollout = sample(std::move(prompts), group_size, call, &tokenizer);
  rollout.problems = std::move(problems);
  for (int64_t i = 0; i < rollout.size(); ++i) {
    const int64_t* ids = rollout.response_ids[i].data_ptr<int64_t>();
    const int64_t last = rollout.lengths[i] - 1;
    const int64_t shown = last + (std::ranges::count(policy_.config().end_ids, ids[last]) ? 0 : 1);
    rollout.texts.push_back(tokenizer.decode({ids, static_cast<size_t>(shown)}));
  }
  return rollout;
}

Rollout Sampler::sample(std::vector<std::vector<int64_t>> prompts, int64_t group_size, int64_t call,
                        const Tokenizer* tokenizer) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK(tokenizer || options_.stop_text.empty(), "Sampler: stop_text needs the tokenizer");
  for (const auto& prompt : prompts) {
    const auto length = static_cast<int64_t>(prompt.size()), limit = policy_.config().max_positions;
    if (length == 0 || length + options_.max_response_tokens > limit)
      throw std::invalid_argument(c10::str(
          "a prompt of ", length, " tokens and max-response-tokens ", options_.max_response_tokens,
          " do not fit the model's ", limit, " positions; the prompt must not be empty"));
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
  const Model model = policy_.cast_for_sampling();
  const int64_t prompts_per_batch = std::max<int64_t>(1, options_.batch / group_size);
  for (int64_t first = 0; first < num_prompts; first += prompts_per_batch) {
    sample_batch(model, rollout, first, std::min(prompts_per_batch, num_prompts - first), call,
                 tokenizer);
  }
  trim_and_mask(rollout);
  return rollout;
}

void Sampler::sample_batch(const Model& model, Rollout& rollout, int64_t first_prompt,
                           int64_t num_prompts, int64_t call, const Tokenizer* tokenizer) {
  const int64_t group = rollout.group_size, rows = num_prompts * group,
                first_response = first_prompt * group;
  const std::vector<std::vector<int64_t>> prompts(
      rollout.prompts.begin() + first_prompt, rollout.prompts.begin() + first_prompt + num_prompts);
  const auto longest = std::ranges::max(prompts, {}, &std::vector<int64_t>::size).size();
  const int64_t capacity = static_cast<int64_t>(longest) + options_.max_response_tokens;
  if (cache_.empty() || cache_[0].values.size(0) < rows || cache_[0].capacity() < capacity) {
    cache_.clear();
    cache_ = model.make_cache(rows, capacity);
  }
  Tensor logits = model.prefill(PackedTokens::from(prompts, model.device()), cache_, group)
                      .repeat_interleave(group, /*dim=*/0);  // (prompts, V) -> (rows, V)

  std::vector<int64_t> active = count_up(rows);  // cache rows that are not finished
  // The stop text may begin within a token and end within another: the end of each row's text is
  // kept, as much of it as a match can still use.
  const std::string& stop = options_.stop_text;
  std::vector<std::string> tails(stop.empty() ? 0 : rows);
  const auto completes_stop = [&](int64_t row, int64_t id) {
    if (stop.empty()) return false;
    std::string& tail = tails[row] += tokenizer->decode({&id, 1});
    const bool found = tail.find(stop) != std::string::npos;
    tail.erase(0, tail.size() - std::min(tail.size(), stop.size() - 1));
    return found;
  };
  auto ids = rollout.response_ids.accessor<int64_t, 2>();  // (B, T)
  auto log_probs = rollout.log_probs.accessor<float, 2>();
  for (int64_t t = 0; !active.empty(); ++t) {
    // One uniform number per row, keyed by response and position: batching changes no response.
    Tensor uniforms = torch::empty({static_cast<int64_t>(active.size())}, torch::kFloat64);
    for (size_t i = 0; i < active.size(); ++i) {
      uniforms.data_ptr<double>()[i] =
          random_uniform(options_.seed, options_.stream, call, first_response + active[i], t);
    }
    const SampledTokens sampled =
        sample_tokens(logits, uniforms, options_.temperature, options_.top_p);  // (active,)
    const Tensor new_ids = sampled.ids.cpu(), new_log_probs = sampled.log_probs.cpu();
    std::vector<int64_t> going, next_ids, positions;  // of the rows that are not finished yet
    for (size_t i = 0; i < active.size(); ++i) {
      const int64_t response = first_response + active[i], id = new_ids.data_ptr<int64_t>()[i];
      ids[response][t] = id;
      if (options_.on_token) options_.on_token(response, id);
      log_probs[response][t] = new_log_probs.data_ptr<float>()[i];
      rollout.lengths[response] = t + 1;
      rollout.finished[response] =
          std::ranges::count(model.config().end_ids, id) > 0 || completes_stop(active[i], id);
      if (rollout.finished[response] || t + 1 == options_.max_response_tokens) continue;
      going.push_back(active[i]);
      next_ids.push_back(id);
      positions.push_back(static_cast<int64_t>(prompts[active[i] / group].size()) + t);
    }
    active = std::move(going);
    if (options_.on_progress)
      options_.on_progress(first_response + rows - std::ssize(active), rollout.size());
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

Tensor shaped_rewards(const Rollout& rollout, const Config& config) {
  Tensor rewards = rollout.rewards.clone();
  for (int64_t i = 0; i < rollout.size(); ++i) {
    const bool penalised = config.truncated == Truncated::penalise && !rollout.finished[i];
    if (penalised) rewards[i] = config.truncation_penalty;
    const int64_t over = rollout.lengths[i] - config.max_response_tokens + config.overlong_buffer;
    if (config.truncated == Truncated::soft && over > 0)
      rewards[i] -= static_cast<double>(over) / static_cast<double>(config.overlong_buffer);
  }
  return rewards;
}

Tensor loss_mask(const Rollout& rollout, Truncated truncated) {
  Tensor mask = rollout.mask.clone();
  for (int64_t i = 0; i < rollout.size(); ++i) {
    if (truncated == Truncated::mask && !rollout.finished[i]) mask[i].zero_();
  }
  return mask;
}

std::vector<int64_t> mixed_groups(const Rollout& rollout) {
  const Tensor groups = rollout.rewards.view({-1, rollout.group_size});
  const Tensor equal = (groups == groups.select(1, 0).unsqueeze(1)).all(/*dim=*/1);
  std::vector<int64_t> mixed;
  for (int64_t p = 0; p < groups.size(0); ++p) {
    if (!equal[p].item<bool>()) mixed.push_back(p);
  }
  return mixed;
}

std::vector<int64_t> within_accuracy(const Rollout& rollout, std::vector<int64_t> groups,
                                     const Config& config) {
  std::erase_if(groups, [&](int64_t p) {
    double right = 0;
    for (int64_t i = p * rollout.group_size; i < (p + 1) * rollout.group_size; ++i)
      right += rollout.grades[i].correct;
    const double share = right / static_cast<double>(rollout.group_size);
    return share < config.kept_accuracy_min || share > config.kept_accuracy_max;
  });
  return groups;
}

void SamplingStats::add(const Rollout& round) {
  const int64_t round_prompts = std::ssize(round.prompts);
  ++rounds;
  prompts += round_prompts;
  responses += round.size();
  tokens += round.response_tokens();
  zero_std_groups += round_prompts - std::ssize(mixed_groups(round));
  reward_sum += round.rewards.sum(torch::kFloat64).item<double>();
  for (int64_t i = 0; i < round.size(); ++i) {
    const Grade& grade = round.grades[i];
    correct += grade.correct;
    formatted += grade.formatted;
    answered += grade.answered;
    reflected += grade.reflected;
    truncated += !round.finished[i];
  }
}

Collection collect(const std::function<Rollout()>& sample_round, const Config& config) {
  constexpr int64_t kMaxRounds = 10;  // [DAPO]
  Collection result;
  std::vector<Tensor> rewards;
  std::optional<Rollout> kept;
  for (bool enough = false; !enough;) {
    Rollout round = sample_round();
    const std::vector<int64_t> differ_by_rule = mixed_groups(round);
    round.rewards = shaped_rewards(round, config);
    rewards.push_back(round.rewards);
    result.sampled_grades.insert(result.sampled_grades.end(), round.grades.begin(),
                                 round.grades.end());
    std::vector<int64_t> groups = count_up(std::ssize(round.prompts));
    if (config.dynamic_sampling) {
      const bool soft = config.truncated == Truncated::soft;
      groups = within_accuracy(round, soft ? differ_by_rule : mixed_groups(round), config);
    }
    const int64_t have = kept ? std::ssize(kept->prompts) : 0, first = result.sampled.prompts;
    const bool last = result.sampled.rounds + 1 == kMaxRounds;
    if (std::ssize(groups) > config.prompts_per_step - have)
      groups.resize(config.prompts_per_step - have);
    // Nothing is mixed: take the last round as it is.
    if (groups.empty() && !kept && last) groups = count_up(std::ssize(round.prompts));
    for (const int64_t group : groups) result.kept_groups.push_back(first + group);
    if (!groups.empty()) {
      const Rollout chosen = select_prompts(round, groups);
      kept = kept ? concatenate(*kept, chosen) : chosen;
    }
    result.sampled.add(round);
    enough = last || std::ssize(result.kept_groups) == config.prompts_per_step;
  }
  result.rollout = *kept;
  result.sampled_rewards = torch::cat(rewards);
  return result;
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

}  // namespace tiny_zero
