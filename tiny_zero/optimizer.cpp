#include "tiny_zero/optimizer.h"

#include <ATen/ops/_fused_adamw.h>

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
  if (std::isfinite(norm) && learning_rate > 0) {
    if (max_grad_norm_ > 0 && norm > max_grad_norm_) gradients.mul_(max_grad_norm_ / norm);
    ++updates;
    const Tensor count = torch::full({}, static_cast<float>(updates), parameters.options());
    at::_fused_adamw_({parameters}, {gradients}, {mean}, {square}, /*max_exp_avg_sqs=*/{}, {count},
                      learning_rate, beta1_, beta2_, weight_decay_, epsilon_, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  gradients.zero_();
  return norm;
}

double scheduled_learning_rate(double peak, double final, Schedule schedule, int64_t step,
                               int64_t warmup_steps, int64_t num_steps) {
  if (step < warmup_steps)
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
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
