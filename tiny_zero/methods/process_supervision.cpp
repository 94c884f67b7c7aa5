#include "tiny_zero/methods/process_supervision.h"

#include <algorithm>

namespace tiny_zero {

using torch::Tensor;

namespace {

void check_end(int64_t response, const char* unit, int64_t end, int64_t first, int64_t last) {
  if (first <= end && end <= last) return;
  throw std::invalid_argument("response " + std::to_string(response) + ": a step ends at " + unit +
                              std::to_string(end) + ", want " + std::to_string(first) + " to " +
                              std::to_string(last) + "; does the task grade steps of other text?");
}

}  // namespace

Tensor reward_steps(const Rollout& rollout, const Tokenizer& tokenizer) {
  std::vector<float> steps;
  const auto add = [&](int64_t response, int64_t token, double reward) {
    for (const auto x : {double(response), double(token), reward}) steps.push_back(float(x));
  };
  for (int64_t i = 0; i < rollout.size(); ++i) {
    const int64_t* ids = rollout.response_ids[i].data_ptr<int64_t>();
    std::vector<int64_t> ends{0};  // bytes up to each token, which may end within a character
    for (int64_t t = 0; t < rollout.lengths[i]; ++t)
      ends.push_back(ends.back() + std::ssize(tokenizer.decode({ids + t, 1})));
    for (const auto& [end, reward] : rollout.grades[i].steps) {
      check_end(i, "byte ", end, 1, std::ssize(rollout.texts[i]));
      add(i, std::lower_bound(ends.begin(), ends.end(), end) - ends.begin() - 1, reward);
    }
    add(i, rollout.lengths[i] - 1, rollout.rewards[i].item<double>());
  }
  return torch::tensor(steps).view({-1, 3});
}

Tensor process_advantages(const Tensor& steps, const std::vector<int64_t>& lengths,
                          int64_t group_size, GroupStd deviation, double epsilon) {
  const Tensor responses = steps.select(1, 0).to(torch::kInt64),
               indices = steps.select(1, 1).to(torch::kInt64), rewards = steps.select(1, 2);
  const auto rows = steps.accessor<float, 2>();
  for (int64_t s = 0; s < rows.size(0); ++s) {
    const auto i = static_cast<int64_t>(rows[s][0]), token = static_cast<int64_t>(rows[s][1]);
    check_end(i, "token ", token, 0, lengths.at(i) - 1);
  }
  Tensor normalised = torch::empty_like(rewards);
  for (int64_t p = 0; p < std::ssize(lengths) / group_size; ++p) {
    const Tensor own = (responses.floor_divide(group_size) == p).nonzero().squeeze(1);
    normalised.index_copy_(0, own,
                           group_advantages(rewards.index_select(0, own), own.size(0), deviation,
                                            epsilon, Baseline::mean));
  }
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const Tensor at_their_ends =
      torch::zeros({std::ssize(lengths), longest})
          .index_put({responses, indices}, normalised, /*accumulate=*/true);
  return sum_to_come(at_their_ends);
}

}  // namespace tiny_zero
