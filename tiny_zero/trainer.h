#pragma once
// The reinforcement-learning loop.

#include <memory>
#include <optional>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/metrics.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/update.h"
#include "tiny_zero/watch.h"

namespace tiny_zero {

class Trainer {
 public:
  /// Loads the model, or with config.resume the directory's checkpoint.
  Trainer(const Config& config, const Task& task, RunDirectory& directory);
  /// Runs to the last step, or until Ctrl-C, and saves.
  /// @throws std::runtime_error, having saved, if the watch gives the run up
  void run();

 private:
  /// Samples and grades a group of responses to each of the next problems.
  Rollout sample_round(Sampler& sampler);
  /// Scores the rollout under the reference, the critic and the process reward model, where the
  /// settings have them; the last also learns from it.
  Judgement judge(const Rollout& rollout, StepStats& stats, StepDump& dump);
  void update(const Collection& collected, const Judgement& judgement, const Advantages& estimate,
              StepStats& stats, StepDump& dump, const OnProgress& on_progress);
  /// Null unless this step's tensors are asked for.
  StepDump* if_wanted(StepDump& dump) const { return step_ < config_.dump_steps ? &dump : nullptr; }
  /// Writes dump/step_N.safetensors with the weights after the step, or
  /// not_finite_step_N.safetensors.
  void save_dump(StepDump& dump, bool complete) const;
  void save();

  Config config_;
  const Task& task_;
  torch::Device device_;
  RunDirectory& directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
  SideFiles side_files_;  // of the model, for checkpoints
  std::optional<Learner> policy_, critic_, prm_;
  std::optional<Model> reference_, prm_reference_;  // the PRM's is the start for good [PRIME]
  bool reference_moved_ = false;   // replaced at least once, so checkpoints must store it
  int64_t step_ = 0, cursor_ = 0;  // the next step; the next training problem
  int64_t saved_step_ = -1;        // of the newest checkpoint
  // Part of a checkpoint. Steps and PRIME's tokens differ where the rewards of the whole are equal.
  Watch watch_{config_.compares_groups() && !config_.rewards_steps() && !config_.has_prm()};
  std::string sources_;  // checksums of what --resume reads beside the checkpoint; part of it
  double wall_s_ = 0;    // spent in steps, over all resumptions
};

}  // namespace tiny_zero
