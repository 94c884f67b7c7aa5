#include "tiny_zero/optimizer.h"

#include <cmath>
#include <numbers>

namespace tiny_zero {

using torch::Tensor;

AdamW::AdamW(const Tensor& parameters, const Config& config)
    : mean(torch::zeros_like(parameters)),
      square(torch::zeros_like(parameters)),
      beta1_(config.beta1),
      beta2_(config.beta2),
      epsilon_(config.adam_epsilon),
      weight_decay_(config.weight_decay),
      max_grad_norm_(config.max_grad_norm) {}

double AdamW::step(Tensor& parameters, Tensor& gradients, double learning_rate) {
  const at::NoGradGuard no_grad;
  const double norm = gradients.norm().item<double>();
  if (std::isfinite(norm)) {
    if (max_grad_norm_ > 0 && norm > max_grad_norm_) gradients.mul_(max_grad_norm_ / norm);
    ++updates;
    const double mean_correction = 1 - std::pow(beta1_, static_cast<double>(updates));
    const double square_correction = 1 - std::pow(beta2_, static_cast<double>(updates));
    mean.lerp_(gradients, 1 - beta1_);
    square.mul_(beta2_).addcmul_(gradients, gradients, 1 - beta2_);
    const Tensor denominator = square.sqrt().div_(std::sqrt(square_correction)).add_(epsilon_);
    if (weight_decay_ > 0) parameters.mul_(1 - learning_rate * weight_decay_);
    parameters.addcdiv_(mean, denominator, -learning_rate / mean_correction);
  }
  gradients.zero_();
  return norm;
}

double scheduled_learning_rate(double peak, double final, Schedule schedule, int64_t step, int64_t warmup_steps,
                               int64_t num_steps) {
  if (step < warmup_steps) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const double span = static_cast<double>(std::max<int64_t>(1, num_steps - 1 - warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
  switch (schedule) {
    case Schedule::constant:
      return peak;
    case Schedule::linear:
      return peak + (final - peak) * progress;
    case Schedule::cosine:
      return final + (peak - final) * (1 + std::cos(std::numbers::pi * progress)) / 2;
  }
  return peak;
}

}  // namespace tiny_zero
