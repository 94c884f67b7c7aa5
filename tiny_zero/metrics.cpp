#include "tiny_zero/metrics.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <sys/resource.h>

#include <cmath>

#include "tiny_zero/advantage.h"

namespace tiny_zero {
namespace {

/// JSON knows no nan: what is not a number is null.
Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

/// Largest memory of the process so far: resident on the CPU, allocated on a GPU.
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

}  // namespace

Json step_metrics(int64_t step, const Collection& collected, const Judgement& judgement,
                  const Advantages& estimate, const StepStats& stats, const StepTimes& times,
                  const torch::Device& device) {
  const SamplingStats& sampled = collected.sampled;
  const auto per_response = [&](double sum) { return sum / sampled.responses; };
  Json line;
  line["step"] = step;
  line["reward_mean"] = per_response(sampled.reward_sum);
  line["accuracy"] = per_response(sampled.correct);
  line["format_rate"] = per_response(sampled.formatted);
  line["answered_rate"] = per_response(sampled.answered);
  line["response_tokens_mean"] = per_response(sampled.tokens);
  line["truncated_rate"] = per_response(sampled.truncated);
  line["reflection_rate"] = per_response(sampled.reflected);
  line["zero_std_groups"] = sampled.zero_std_groups;
  line["prompts_sampled"] = sampled.prompts;
  line["prompts_kept"] = collected.rollout.prompts.size();
  line["sampling_rounds"] = sampled.rounds;
  for (const char* name :
       {"kl", "entropy", "ratio_max_deviation", "log_prob_gap_mean", "clip_fraction", "policy_loss",
        "value_loss", "explained_variance", "grad_norm"}) {
    line[name] = Json();
  }
  if (stats.skipped().empty()) {
    for (const UpdateStats* network : {&stats.policy, &stats.critic, &stats.prm}) {
      for (const auto& [name, mean] : network->means) line[name] = number_or_null(mean);
    }
    if (stats.policy.updates > 0) {
      line["ratio_max_deviation"] = number_or_null(stats.policy.ratio_max_deviation);
      line["grad_norm"] = number_or_null(stats.policy.grad_norm);
    }
  }
  if (judgement.values.defined()) {
    line["explained_variance"] = number_or_null(
        explained_variance(judgement.values, estimate.returns, collected.rollout.mask));
  }
  line["lr"] = stats.policy.learning_rate;
  if (!stats.skipped().empty()) line["skipped"] = stats.skipped();
  const int64_t update_tokens = stats.policy.tokens + stats.critic.tokens + stats.prm.tokens;
  line["rollout_tokens_per_s"] = std::round(sampled.tokens / times.rollout_s);
  line["update_tokens_per_s"] = std::round(update_tokens / times.update_s);
  line["step_s"] = times.rollout_s + times.update_s;
  line["wall_s"] = times.wall_s;
  line["peak_memory_bytes"] = peak_memory_bytes(device);
  return line;
}

void log_samples(RunDirectory& directory, int64_t step, const Rollout& rollout,
                 const torch::Tensor& advantages, int64_t count) {
  for (int64_t i = 0; i < std::min(count, rollout.size()); ++i) {
    const auto own = advantages[i].narrow(0, 0, rollout.lengths[i]);
    directory.log_sample({{"step", step},
                          {"group", i / rollout.group_size},
                          {"prompt", rollout.problem_of(i).prompt},
                          {"response", rollout.texts[i]},
                          {"gold", rollout.problem_of(i).gold},
                          {"reward", rollout.grades[i].reward},
                          {"advantage", own.mean().item<double>()}});
  }
}

}  // namespace tiny_zero
