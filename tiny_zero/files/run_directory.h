#pragma once
// runs/NAME/: the settings, metrics and samples of a run, and its checkpoints.
//   settings.conf   every setting, readable as a recipe; each resumption appends what it changed
//   metrics.jsonl   one object per step          samples.jsonl   some responses of each step
//   checkpoints/step_N/   written under another name and renamed, so that it is always complete;
//                   its state.json holds the checksums of the other files and the logs' sizes
//   lock            held by the process that writes the run, and names it

#include <filesystem>
#include <fstream>
#include <functional>

#include "tiny_zero/files/json.h"
#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// RUNS-DIR/NAME.   @throws std::invalid_argument if NAME is not one directory's name
std::filesystem::path run_path(const Config& config);

/// The newest checkpoint of a run: step_ and digits, with a readable state.json of that step. Its
/// other files may still be damaged. "" if there is none.
std::filesystem::path newest_checkpoint(const std::filesystem::path& run);
/// The same for --resume.   @throws std::invalid_argument if there is none
std::filesystem::path checkpoint_to_resume(const std::filesystem::path& run);

/// The command that continues a run, as the shell wants it.
std::string resume_command(const std::string& verb, const Config& config);

/// XXH3 of a file's bytes: it finds flipped bits and missing ends, not forgery.
std::string checksum(std::istream&& file);

struct Checkpoint {
  std::filesystem::path path;  // "" for a new run
  nlohmann::json state;
  /// The size of a log when the checkpoint was saved.
  int64_t log_bytes(const std::string& log) const { return (*this)["log_bytes"][log].integer(0); }
  int64_t count(const std::string& key) const { return (*this)[key].integer(0); }
  Field operator[](const std::string& key) const {
    return Field{state, (path / "state.json").string() + ": "}[key];
  }
};

class RunDirectory {
 public:
  /// Writes nothing yet. Throws std::invalid_argument if a new run would overwrite an old one, if
  /// there is nothing to resume, or if the settings are those of another run (Setting::identity);
  /// std::runtime_error if the newest checkpoint is damaged or does not fit the logs.
  RunDirectory(const Config& config, const Settings& settings);
  /// The checkpoint to resume from, verified.
  const Checkpoint& checkpoint() const { return checkpoint_; }
  /// Creates a new run's files, or truncates an old one's logs to what they were at the checkpoint
  /// and records the changed settings. To be called when all that can fail at startup has not.
  void start();

  void log_metrics(const Json& line) { append(metrics_, line); }
  void log_sample(const Json& line) { append(samples_, line); }

  /// Lets `write` fill the directory `target` under another name, flushes it to the disk and
  /// renames it, so that it is there as a whole or not at all. Replaces what was there.
  static void write_whole(const std::filesystem::path& target,
                          const std::function<void(const std::filesystem::path&)>& write);
  /// Saves a checkpoint and removes all but the newest `keep`.
  /// @param state  what fits into a JSON object   @param write  puts the other files of the run's
  /// state into the directory that it is given
  void save(int64_t step, Json state, int64_t keep,
            const std::function<void(const std::filesystem::path&)>& write);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::ofstream& file, const Json& line) const;
  /// @throws std::runtime_error if the directory was removed or replaced since start()
  void check_still_there() const;

  std::filesystem::path path_;
  Checkpoint checkpoint_;
  std::string record_;  // lines for settings.conf: of a new run all, else what changed
  bool had_settings_;   // when this began
  std::pair<uint64_t, uint64_t> identity_;    // device and inode of the directory...
  std::filesystem::directory_iterator held_;  // ...which is kept open: no other gets that inode
  std::ofstream metrics_, samples_;
};

}  // namespace tiny_zero
