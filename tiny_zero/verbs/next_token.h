#pragma once
// The loop of next-token training, which pretrain and sft share: updates, metrics, checkpoints, and
// the model at the end.

#include <functional>
#include <string>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/learner.h"

namespace tiny_zero {

struct NextTokenTraining {
  // Where it is; a checkpoint holds it.
  int64_t update = 0, tokens = 0, cursor = 0;  // taken; seen; the next document or example
  double loss_sum = 0;                         // of the updates since the last line of metrics
  std::string data = "";                       // hash of the examples, "" if a task makes them

  // What it does.
  std::string verb;               // that continues it
  int64_t log_every, save_every;  // updates
  SideFiles side_files;           // go with the model

  /// Goes on from a checkpoint.   @throws std::invalid_argument if it was saved with other `data`
  void resume(const Checkpoint& checkpoint);
  /// Updates the learner until `done`, `tokens` or `cursor`, has come to `total`, and saves the
  /// model; until a signal, and saves a checkpoint.
  /// @param accumulate  adds an update's gradient, moves tokens and cursor on
  ///                    -> loss (nats per token) and learning rate
  /// @throws std::runtime_error at a gradient that is not finite
  void run(Learner& learner, RunDirectory& directory, const Config& config, const int64_t& done,
           int64_t total, const std::function<std::pair<double, double>()>& accumulate);
};

}  // namespace tiny_zero
