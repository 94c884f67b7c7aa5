#pragma once
// AdamW on one flat parameter vector, and the learning rate's course.

#include <torch/types.h>

#include "tiny_zero/settings/config.h"

namespace tiny_zero {

/// Decoupled weight decay, bias-corrected moments.   [Loshchilov, Hutter: Decoupled weight decay,
/// algorithm 2]
///   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  p -= lr (m^ / (sqrt(v^) + eps) + decay p)
class AdamW {
 public:
  AdamW(const torch::Tensor& parameters, const Config& config);
  /// Scales the gradients down to `max_grad_norm`, updates the parameters, zeroes the gradients.
  /// @return the gradients' norm before scaling; if it is not finite, or the rate 0, nothing but
  /// the gradients has changed
  double step(torch::Tensor& parameters, torch::Tensor& gradients, double learning_rate);

  torch::Tensor mean, square;  // m, v: (P,) float32, saved in checkpoints
  int64_t updates = 0;

 private:
  double beta1_, beta2_, epsilon_, weight_decay_, max_grad_norm_;
};

/// Learning rate of `step` (from 0): linear warm-up, then constant, or falling to `final` at the
/// last step.
double scheduled_learning_rate(double peak, double final, Schedule schedule, int64_t step,
                               int64_t warmup_steps, int64_t num_steps);

}  // namespace tiny_zero
