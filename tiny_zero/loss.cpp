#include "tiny_zero/loss.h"

#include <cmath>

namespace tiny_zero {

using torch::Tensor;

namespace {

void check_shapes(const char* name, const Tensor& a, const Tensor& b, const Tensor& c) {
  TORCH_CHECK(a.sizes() == b.sizes() && a.sizes() == c.sizes(), name, ": shapes ", a.sizes(), ", ",
              b.sizes(), " and ", c.sizes(), " must be one");
}

Tensor log_ratio(const Tensor& log_probs, const Tensor& ref_log_probs) {
  return (ref_log_probs - log_probs).clamp(-20.0, 20.0);
}

}  // namespace

Tensor policy_loss(const Tensor& log_probs, const Tensor& old_log_probs, const Tensor& advantages,
                   double clip_low, double clip_high) {
  check_shapes("policy_loss", log_probs, old_log_probs, advantages);
  const Tensor ratio = torch::exp(log_probs - old_log_probs);
  const Tensor clipped = torch::clamp(ratio, 1.0 - clip_low, 1.0 + clip_high);
  // min keeps the worse of the two, so leaving the range never pays.
  return -torch::min(ratio * advantages, clipped * advantages);
}

Tensor policy_clipped(const Tensor& log_probs, const Tensor& old_log_probs,
                      const Tensor& advantages, double clip_low, double clip_high) {
  const Tensor ratio = torch::exp(log_probs - old_log_probs);
  return ((ratio > 1.0 + clip_high) & (advantages > 0)) |
         ((ratio < 1.0 - clip_low) & (advantages < 0));
}

Tensor kl_k1(const Tensor& log_probs, const Tensor& ref_log_probs) {
  return -log_ratio(log_probs, ref_log_probs);
}

Tensor kl_k2(const Tensor& log_probs, const Tensor& ref_log_probs) {
  return log_ratio(log_probs, ref_log_probs).square() / 2;
}

Tensor kl_k3(const Tensor& log_probs, const Tensor& ref_log_probs) {
  const Tensor d = log_ratio(log_probs, ref_log_probs);
  return torch::expm1(d) - d;
}

Tensor value_loss(const Tensor& values, const Tensor& old_values, const Tensor& returns,
                  double clip) {
  check_shapes("value_loss", values, old_values, returns);
  const Tensor plain = (values - returns).square();
  if (clip <= 0) return plain / 2;
  const Tensor held = old_values + (values - old_values).clamp(-clip, clip);
  return torch::max(plain, (held - returns).square()) / 2;
}

Tensor loss_weights(const Tensor& mask, Aggregation aggregation, int64_t max_response_tokens) {
  const Tensor lengths = mask.sum(/*dim=*/1, /*keepdim=*/true).to(torch::kFloat32);
  const Tensor responses = (lengths > 0).sum().clamp_min(1);
  switch (aggregation) {
    case Aggregation::token:
      return mask / lengths.sum().clamp_min(1);
    case Aggregation::sequence:
      return mask / lengths.clamp_min(1) / responses;
    case Aggregation::constant:
      return mask / (responses.to(torch::kFloat32) * static_cast<double>(max_response_tokens));
  }
  TORCH_CHECK(false, "loss_weights: unknown aggregation");
}

void LossTerms::start(const Tensor& weights) {
  weights_ = weights;
  loss_ = torch::zeros({}, weights.options());
  total_weight_ = total_weight_.defined() ? total_weight_ + weights.sum() : weights.sum();
}

void LossTerms::add(const std::string& name, const Tensor& per_token, double coefficient) {
  TORCH_CHECK(name != kTotal, "LossTerms: a term cannot be called total");
  const Tensor term = (weights_ * per_token).sum();
  if (coefficient != 0) loss_ = loss_ + coefficient * term;
  auto& running = running_[name];
  running = running.defined() ? running + term.detach() : term.detach();
  auto& total = running_[kTotal];
  if (!total.defined()) total = torch::zeros_like(running);
  if (coefficient != 0) total = total + coefficient * term.detach();
}

void LossTerms::finish() {
  std::vector<Tensor> values{total_weight_};
  for (const auto& [name, value] : running_) values.push_back(value);
  const Tensor read = torch::stack(values).to(torch::kCPU, torch::kFloat64);
  weight_ = read[0].item<double>();
  int64_t i = 1;
  for (const auto& [name, value] : running_) sums_[name] = read[i++].item<double>();
}

std::string LossTerms::not_finite() const {
  for (const auto& [name, value] : sums_) {
    if (!std::isfinite(value) && name != kTotal) return name;
  }
  return "";
}

}  // namespace tiny_zero
