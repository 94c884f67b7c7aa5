#include "tiny_zero/metrics.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>

#include <cmath>

#include "tiny_zero/advantage.h"

namespace tiny_zero {
namespace {

/// JSON knows no nan: what is not a number is null.
Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

}  // namespace

Json step_metrics(int64_t step, const Rollout& rollout, const Experience& experience,
                  const UpdateStats& stats, const StepTimes& times, double learning_rate,
                  const torch::Device& device, const Config& config) {
  const auto responses = static_cast<double>(rollout.size()),
             tokens = static_cast<double>(rollout.response_tokens());
  const auto rate = [&](auto holds) {
    int64_t count = 0;
    for (int64_t i = 0; i < rollout.size(); ++i) count += holds(i) ? 1 : 0;
    return static_cast<double>(count) / responses;
  };
  const bool ppo = config.algorithm == Algorithm::ppo;
  const bool skipped = !stats.skipped.empty();
  const auto updated = [&](double value) { return skipped ? Json() : number_or_null(value); };
  Json line;
  line["step"] = step;
  line["reward_mean"] = rollout.rewards.mean().item<double>();
  line["accuracy"] = rate([&](int64_t i) { return rollout.grades[i].correct; });
  line["format_rate"] = rate([&](int64_t i) { return rollout.grades[i].formatted; });
  line["answered_rate"] = rate([&](int64_t i) { return rollout.grades[i].answered; });
  line["response_tokens_mean"] = tokens / responses;
  line["truncated_rate"] = rate([&](int64_t i) { return !rollout.finished[i]; });
  line["reflection_rate"] = rate([&](int64_t i) { return rollout.grades[i].reflected; });
  line["zero_std_groups"] =
      static_cast<int64_t>(rollout.prompts.size() - mixed_groups(rollout).size());
  line["kl"] = experience.ref_log_probs.defined() ? updated(stats.kl) : Json();
  line["entropy"] = updated(stats.entropy);
  line["ratio_max_deviation"] = updated(stats.ratio_max_deviation);
  line["log_prob_gap_mean"] = updated(stats.log_prob_gap_mean);
  line["clip_fraction"] = updated(stats.clip_fraction);
  line["policy_loss"] = updated(stats.policy_loss);
  line["value_loss"] = ppo ? updated(stats.value_loss) : Json();
  line["explained_variance"] =
      ppo ? number_or_null(explained_variance(experience.values, experience.returns, rollout.mask))
          : Json();
  line["grad_norm"] = updated(stats.grad_norm);
  line["lr"] = learning_rate;
  if (skipped) line["skipped"] = stats.skipped;
  line["rollout_tokens_per_s"] = std::round(tokens / times.rollout_s);
  line["update_tokens_per_s"] = std::round(static_cast<double>(stats.tokens) / times.update_s);
  line["step_s"] = times.rollout_s + times.update_s;
  line["wall_s"] = times.wall_s;
  line["peak_memory_bytes"] = peak_memory_bytes(device);
  return line;
}

void log_samples(RunDirectory& directory, int64_t step, const Rollout& rollout, int64_t count) {
  const auto prompts = static_cast<int64_t>(rollout.prompts.size());
  for (int64_t p = 0; p < std::min(count, prompts); ++p) {
    const int64_t i = p * rollout.group_size;
    directory.log_sample({{"step", step},
                          {"prompt", rollout.problems[p].prompt},
                          {"response", rollout.texts[i]},
                          {"reward", rollout.grades[i].reward}});
  }
}

std::vector<int64_t> mixed_groups(const Rollout& rollout) {
  const auto groups = rollout.rewards.view({-1, rollout.group_size});
  const auto equal = (groups == groups.select(1, 0).unsqueeze(1)).all(/*dim=*/1);
  std::vector<int64_t> mixed;
  for (int64_t p = 0; p < groups.size(0); ++p) {
    if (!equal[p].item<bool>()) mixed.push_back(p);
  }
  return mixed;
}

int64_t peak_memory_bytes(const torch::Device& device) {
  if (device.is_cuda()) {
    const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)
                           ->getDeviceStats(std::max<int>(0, device.index()));
    return stats.allocated_bytes[0].peak;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;  // Linux counts in KiB
}

}  // namespace tiny_zero
