#pragma once
// A network that learns: its model, AdamW on one flat parameter vector, and its learning rate.

#include <filesystem>
#include <string>

#include "tiny_zero/model.h"
#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// Decoupled weight decay, bias-corrected moments.   [AdamW, algorithm 2]
///   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  p -= lr (m^ / (sqrt(v^) + eps) + decay p)
class AdamW {
 public:
  AdamW(const torch::Tensor& parameters, const Config& config);
  /// Scales the gradients down to `max_grad_norm`, updates the parameters, zeroes the gradients.
  /// At rate 0 the moments still move.
  /// @return the gradients' norm before scaling; if it is not finite, only the gradients have
  /// changed
  double step(torch::Tensor& parameters, torch::Tensor& gradients, double learning_rate);

  torch::Tensor mean, square;  // m, v: (P,) float32, saved in checkpoints
  int64_t updates = 0;         // taken so far

 private:
  double beta1_, beta2_, epsilon_, weight_decay_, max_grad_norm_;
};

/// The learning rate as a function of the network's own updates, not of the run's steps [T38]:
/// linear warm-up, then constant, or falling to `final` at the last update.
struct LearningRate {
  double peak = 0, final = 0;
  Schedule schedule = Schedule::constant;
  int64_t warmup_updates = 0, total_updates = 1;
  double at(int64_t update) const;  // update: from 0
};
/// The policy's: it has no updates while only the critic learns.
LearningRate policy_learning_rate(const Config& config);
/// The separate critic's: the same schedule, down to the same fraction of its own peak.
LearningRate critic_learning_rate(const Config& config);

struct Learner {
  Model model;
  AdamW optimizer;

  /// Gives the model the settings' compute type.
  Learner(Model start, const Config& config);
  /// One update from the gradients that have been accumulated.   @return as AdamW::step()
  double step(double learning_rate) {
    return optimizer.step(model.parameters(), model.gradients(), learning_rate);
  }
  /// Drops the gradients without an update.
  void discard() { model.gradients().zero_(); }

  /// In a checkpoint: NAME/ in Hugging Face layout and NAME_optimizer.safetensors.
  void save(const std::filesystem::path& directory, const std::string& name) const;
  /// @throws std::runtime_error if the optimiser's state does not fit the model
  static Learner load(const std::filesystem::path& directory, const std::string& name, Head head,
                      torch::Device device, const Config& config);
};

/// Starts a value head: zero [T19] (a shared critic keeps the head of its model file, if there is
/// one); uniform(-sqrt 5, sqrt 5), as ORZ's paper says; or normal with deviation 1 / (hidden + 1),
/// as its code does [ORZ].
void init_value_head(Model& model, HeadInit init, uint64_t seed);

}  // namespace tiny_zero
