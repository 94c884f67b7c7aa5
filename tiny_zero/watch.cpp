#include "tiny_zero/watch.h"

#include <algorithm>

namespace tiny_zero {

std::string Watch::look(const Json& metrics) {
  const auto lasts = [&](const std::string& name, bool now) {  // true once, at the tenth step
    int64_t& steps = counts[name];
    return steps < 10 && (steps = now ? steps + 1 : 0) == 10;
  };
  const int64_t step = metrics.at("step");
  std::string news;
  if (metrics.contains("skipped")) {
    news = "step " + std::to_string(step) + ": update skipped, as the " +
           std::string(metrics.at("skipped")) + " was not finite";
    if (counts["skipped"]++ == 0) counts["first_skipped"] = step;
  }
  if (lasts("skipped_in_a_row", metrics.contains("skipped"))) {
    counts["skipped_in_a_row"] = 0;  // who resumes the run gets ten steps again
    verdict = news + "; as all from step " + std::to_string(step - 9) + " on. not_finite_step_" +
              std::to_string(counts["first_skipped"]) +
              ".safetensors, beside the metrics, holds the tensors of the first. The run is saved: "
              "--resume it with a lower learning-rate, more warmup-updates or a max-grad-norm of 1";
  }
  const auto warn = [&](const std::string& name, bool now, const std::string& text) {
    if (!lasts(name, now)) return;
    if (!news.empty()) news += '\n';
    news.append("warning: ten steps in a row ").append(text);
  };
  const Json& entropy = metrics.at("entropy");  // null if the update was skipped
  int64_t& start = counts["first_entropy"];     // in millionths of a nat
  if (entropy.is_number() && start == 0) start = static_cast<int64_t>(1e6 * entropy.get<double>());
  const double low = std::max(0.01, 0.05e-6 * static_cast<double>(start));
  warn(
      "collapsed", entropy.is_number() && entropy < low && metrics.at("accuracy") < 0.5,
      "the entropy was below a twentieth of the first step's, or 0.01, and most answers wrong: the "
      "policy has collapsed. Start again with a lower learning-rate, or an entropy-coef or kl");
  warn(
      "equal_groups",
      compares_groups && metrics.at("zero_std_groups") == metrics.at("prompts_sampled"),
      "all groups had equal rewards, which leaves nothing to learn. What usually helps: easier (or "
      "harder) problems, a larger group-size, a higher max-response-tokens, a format reward; "
      "or, if they once differed, a lower learning-rate");
  warn("truncated", metrics.at("truncated_rate") == 1,
       "every response was truncated. What usually helps: a higher max-response-tokens, a "
       "stop-text, a base model that ends its texts");
  return news;
}

}  // namespace tiny_zero
