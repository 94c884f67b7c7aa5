#pragma once
// runs/NAME/: the settings, metrics and samples of a run, and its checkpoints.
//   settings.conf   every setting, readable as a recipe
//   metrics.jsonl   one object per step          samples.jsonl   some responses of each step
//   checkpoints/step_N/   written under another name and renamed, so that it is always complete

#include <filesystem>
#include <fstream>
#include <functional>

#include "tiny_zero/files/json.h"
#include "tiny_zero/settings/choices.h"
#include "tiny_zero/settings/settings.h"

namespace tiny_zero {

/// The directory of a run's newest complete checkpoint, "" if there is none.
std::filesystem::path newest_checkpoint(const std::filesystem::path& run);

class RunDirectory {
 public:
  /// Writes nothing yet. Throws std::invalid_argument if a new run would overwrite an old one, or
  /// if there is nothing to resume.
  explicit RunDirectory(const Config& config);
  /// Creates the directory of a new run, after everything that can fail at startup has succeeded.
  void create(const Settings& settings);

  void log_metrics(const Json& line) { append(metrics_, line); }
  void log_sample(const Json& line) { append(samples_, line); }

  /// Saves a checkpoint and removes all but the newest `keep`.
  /// @param state  what fits into a JSON object   @param write  puts the other files of the run's
  /// state into the directory that it is given
  void save(int64_t step, Json state, int64_t keep,
            const std::function<void(const std::filesystem::path&)>& write);
  std::filesystem::path newest_checkpoint() const { return tiny_zero::newest_checkpoint(path_); }
  /// Reads a checkpoint's state and truncates the logs to what they were when it was saved.
  Json restore(const std::filesystem::path& checkpoint);

  const std::filesystem::path& path() const { return path_; }

 private:
  static void append(std::ofstream& file, const Json& line);
  void open_logs(std::ios::openmode mode);

  std::filesystem::path path_;
  std::ofstream metrics_, samples_;
};

}  // namespace tiny_zero
