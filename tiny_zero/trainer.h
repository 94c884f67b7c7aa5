#pragma once
// The reinforcement-learning loop.

#include <memory>
#include <optional>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/update.h"

namespace tiny_zero {

class Trainer {
 public:
  /// Loads the model, or with config.resume the newest checkpoint.
  Trainer(const Config& config, const Settings& settings, const Task& task);
  /// Runs to the last step, or until Ctrl-C, which saves first.
  void run();

 private:
  /// Samples and grades one step's responses; with dynamic sampling, until enough groups have
  /// different rewards.
  Rollout collect(Sampler& sampler);
  UpdateStats update(const Rollout& rollout, const Experience& experience);
  double policy_learning_rate() const;
  void save();

  Config config_;
  const Task& task_;
  torch::Device device_;
  RunDirectory directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
  SideFiles side_files_;  // of the model, for checkpoints
  std::optional<Model> policy_, critic_, reference_;
  std::unique_ptr<AdamW> optimizer_, critic_optimizer_;
  int64_t step_ = 0, cursor_ = 0;  // the next step; the next training problem
  int64_t saved_step_ = -1;        // of the newest checkpoint
  double wall_s_ = 0;              // spent in steps, over all resumptions
};

}  // namespace tiny_zero
