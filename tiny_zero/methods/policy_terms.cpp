#include "tiny_zero/methods/policy_terms.h"

namespace tiny_zero {

using torch::Tensor;

Tensor cispo_loss(const Tensor& log_probs, const Tensor& old_log_probs, const Tensor& advantages,
                  double clip_high) {
  const Tensor ratio = torch::exp(log_probs.detach() - old_log_probs);
  return -ratio.clamp_max(1.0 + clip_high) * advantages * log_probs;
}

Tensor response_means(const Tensor& x, const Tensor& responses) {
  const Tensor zeros = torch::zeros({responses.max().item<int64_t>() + 1}, x.options());
  const Tensor rows = responses.to(x.device());
  const Tensor counts = zeros.index_add(0, rows, torch::ones_like(x));
  return (zeros.index_add(0, rows, x) / counts.clamp_min(1)).index_select(0, rows);
}

PolicyTerms policy_terms(PolicyLoss kind, const Tensor& log_probs, const Tensor& old_log_probs,
                         const Tensor& advantages, double clip_low, double clip_high,
                         const Tensor& responses) {
  const auto clipped_terms = [&](const Tensor& now, const Tensor& old,
                                 const Tensor& weights) -> PolicyTerms {
    return {policy_loss(now, old, weights, clip_low, clip_high),
            policy_clipped(now.detach(), old, weights, clip_low, clip_high)};
  };
  switch (kind) {
    case PolicyLoss::clip:
      return clipped_terms(log_probs, old_log_probs, advantages);
    case PolicyLoss::gspo:
      return clipped_terms(response_means(log_probs, responses),
                           response_means(old_log_probs, responses),
                           response_means(advantages, responses));
    case PolicyLoss::cispo:
      return {cispo_loss(log_probs, old_log_probs, advantages, clip_high),
              torch::exp(log_probs.detach() - old_log_probs) > 1.0 + clip_high};
  }
  TORCH_CHECK(false, "policy_terms: unknown policy loss");
}

}  // namespace tiny_zero
