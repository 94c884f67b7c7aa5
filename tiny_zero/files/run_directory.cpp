#include "tiny_zero/files/run_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <system_error>
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_SCALAR  // fast enough, and GCC 12 warns of its own AVX-512 intrinsics
#include <xxhash.h>

#include "tiny_zero/settings/config.h"

namespace tiny_zero {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLogs[] = {"metrics.jsonl", "samples.jsonl"};

void note(const std::string& text) { std::cerr << "tiny_zero: " << text << std::endl; }

std::string quote(const std::string& word) {  // for the shell
  const auto plain = [](char c) { return std::isalnum(c) || std::strchr("_./:=@%+-", c); };
  if (!word.empty() && std::all_of(word.begin(), word.end(), plain)) return word;
  std::string quoted;
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return "'" + quoted + "'";
}

/// Checkpoints by step. Whatever is not one is not ours either, such as step_best or step_5_copy;
/// `unreadable` gets a line for each that looks like one and is none.
std::map<int64_t, fs::path> list_checkpoints(const fs::path& run,
                                             std::string* unreadable = nullptr) {
  std::map<int64_t, fs::path> found;
  if (!fs::exists(run / "checkpoints")) return found;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    const std::string name = entry.path().filename();
    const int64_t step =
        name.starts_with("step_") ? std::strtoll(name.c_str() + 5, nullptr, 10) : -1;
    if (step < 0 || name != "step_" + std::to_string(step)) continue;
    try {
      const Json state = read_json(entry.path() / "state.json", "a checkpoint holds it");
      if (state.value("step", Json()) != step)
        throw std::invalid_argument(entry.path().string() + " holds another step");
      found[step] = entry.path();
    } catch (const std::exception& error) {
      if (unreadable) *unreadable += std::string(error.what()) + ": not resumed from\n";
    }
  }
  return found;
}

/// Makes a file's bytes, or the names in a directory, survive a power cut.
void flush_to_disk(const fs::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0 || fsync(file) != 0)
    throw std::runtime_error(path.string() + " cannot be flushed to the disk");
  close(file);
}

/// What stays the same when a directory is renamed, and not when another takes its name.
std::pair<uint64_t, uint64_t> identity_of(const fs::path& directory) {
  struct stat status {};
  stat(directory.c_str(), &status);
  return {status.st_dev, status.st_ino};
}

/// Reads a checkpoint.   @throws std::exception if its checksums or the run's logs do not fit it
Checkpoint open_checkpoint(const fs::path& run, const fs::path& path) {
  Checkpoint checkpoint{path, read_json(path / "state.json", "a checkpoint holds it")};
  const auto compare = [&](const fs::path& file, const std::string& found, const Field& wanted) {
    if (found != wanted.text())
      throw std::runtime_error(file.string() + " is damaged: its checksum is wrong");
  };
  if (!checkpoint.state.contains("checksum"))
    throw std::runtime_error((path / "state.json").string() +
                             " has no checksum, as those of older versions: model/ beside it can " +
                             "start another run: --model " + quote(path / "model"));
  nlohmann::json rest = checkpoint.state;
  rest.erase("checksum");
  compare(path / "state.json", checksum(std::istringstream(rest.dump())), checkpoint["checksum"]);
  for (const auto& [file, wanted] : checkpoint["checksums"].members())
    compare(path / file, checksum(std::ifstream(path / file, std::ios::binary)), wanted);
  for (const std::string log : kLogs) {
    const auto least = static_cast<uintmax_t>(checkpoint.log_bytes(log));
    if (fs::exists(run / log) && fs::file_size(run / log) < least)
      throw std::runtime_error((run / log).string() + " is shorter than at " + path.string() +
                               ": bring it back, or move it away, and it starts anew");
  }
  return checkpoint;
}

/// The newest checkpoint; if that is damaged, an error that says which older one is sound.
Checkpoint open_newest_checkpoint(const fs::path& run) {
  std::string damage, damaged = checkpoint_to_resume(run), unreadable;
  auto all = list_checkpoints(run, &unreadable);
  for (std::cerr << unreadable; !all.empty(); all.erase(--all.end())) {
    try {
      const Checkpoint sound = open_checkpoint(run, all.rbegin()->second);
      if (damage.empty()) return sound;
      damage += "; " + sound.path.string() + " is sound, and resumed from after: mv " +
                quote(damaged) + " " + quote(damaged + ".damaged");
      break;
    } catch (const std::exception& error) {
      if (damage.empty()) damage = error.what();
    }
  }
  throw std::runtime_error(damage);
}

}  // namespace

std::string checksum(std::istream&& file) {
  std::vector<char> block(1 << 20);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  while (file.read(block.data(), std::ssize(block)) || file.gcount() > 0)
    XXH3_64bits_update(&state, block.data(), static_cast<size_t>(file.gcount()));
  return file.eof() ? std::to_string(XXH3_64bits_digest(&state)) : "that of no file";
}

fs::path run_path(const Config& config) {
  const std::string& name = config.name;
  if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..")
    throw std::invalid_argument("name is \"" + name + "\", want a plain directory name");
  return fs::path(config.runs_dir) / name;
}

fs::path newest_checkpoint(const fs::path& run) {
  const auto all = list_checkpoints(run);
  return all.empty() ? fs::path() : all.rbegin()->second;
}

fs::path checkpoint_to_resume(const fs::path& run) {
  std::string unreadable;
  const auto all = list_checkpoints(run, &unreadable);
  if (!all.empty()) return all.rbegin()->second;
  throw std::invalid_argument(unreadable + run.string() + " holds no checkpoint to resume; " +
                              (!unreadable.empty() ? "mend one, or take another --name"
                               : fs::exists(run / "model")
                                   ? "it is finished: its model is in model/"
                                   : "leave --resume out to start it afresh"));
}

std::string resume_command(const std::string& verb, const Config& config) {
  return quote(program_invocation_name) + " " + verb + " --resume --runs-dir " +
         quote(config.runs_dir) + " --name " + quote(config.name);
}

RunDirectory::RunDirectory(const Config& config, const Settings& settings)
    : path_(run_path(config)),
      record_(config.changes),
      had_settings_(fs::exists(path_ / "settings.conf")) {
  if (config.resume) {
    checkpoint_ = open_newest_checkpoint(path_);
    return;
  }
  std::string unreadable;
  if (!list_checkpoints(path_, &unreadable).empty())
    throw std::invalid_argument(
        path_.string() + " exists already; --resume continues it, another --name starts a new run");
  if (!unreadable.empty())
    throw std::invalid_argument(unreadable + "move that away to start the run afresh");
  if (fs::exists(path_ / "model"))
    throw std::invalid_argument(path_.string() +
                                " holds a finished model; another --name starts a new run");
  std::ostringstream all;
  settings.write(all);
  record_ = all.str();
}

void RunDirectory::start() {
  const fs::path own = path_ / "settings.conf", aside = path_ / "settings.conf.partial";
  if (checkpoint_.path.empty()) {
    fs::create_directories(path_ / "checkpoints");
    if (had_settings_) fs::remove(own);  // a start that failed
    const int file = open(own.c_str(), O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0) throw std::system_error(errno, std::generic_category(), own);
    close(file);
    write_text(own, record_);
    for (const char* log : kLogs) {  // of a run whose checkpoints were removed, say
      std::error_code no_file;
      if (fs::file_size(path_ / log, no_file) == 0 || no_file) continue;
      fs::rename(path_ / log, path_ / (std::string(log) + ".old"));
      note((path_ / log).string() + " of an earlier start is now " + log + ".old");
    }
  } else {
    if (!record_.empty()) {
      record_ = "# from " + checkpoint_.path.filename().string() + " on\n" + record_;
      write_text(aside, read_text(own, "it holds the run's settings") + record_);
      flush_to_disk(aside);
      fs::rename(aside, own);
      std::cout << record_ << std::flush;
    }
    for (const std::string log : kLogs) {
      if (fs::exists(path_ / log))
        fs::resize_file(path_ / log, checkpoint_.log_bytes(log));
      else
        note((path_ / log).string() + " is missing and starts anew");
    }
  }
  identity_ = identity_of(path_);
  held_ = fs::directory_iterator(path_);
  metrics_.open(path_ / kLogs[0], std::ios::app);
  samples_.open(path_ / kLogs[1], std::ios::app);
  if (!metrics_ || !samples_)
    throw std::runtime_error(path_.string() + ": metrics.jsonl or samples.jsonl cannot be written");
}

void RunDirectory::check_still_there() const {
  if (identity_of(path_) != identity_)
    throw std::runtime_error(path_.string() +
                             " was removed or replaced while this process was writing it: stopped");
}

void RunDirectory::append(std::ofstream& file, const Json& line) const {
  check_still_there();
  // The model may write bytes that are not UTF-8: the log shows U+FFFD, and the loop goes on.
  file << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!file.flush())
    throw std::runtime_error("metrics.jsonl or samples.jsonl cannot be written: is the disk full?");
}

void RunDirectory::write_whole(const fs::path& target,
                               const std::function<void(const fs::path&)>& write) {
  const fs::path aside = target.string() + ".partial";
  fs::remove_all(aside);
  fs::create_directories(aside);
  write(aside);
  for (const auto& entry : fs::recursive_directory_iterator(aside)) flush_to_disk(entry.path());
  flush_to_disk(aside);
  fs::remove_all(target);
  fs::rename(aside, target);
  flush_to_disk(target.parent_path());
}

void RunDirectory::save(int64_t step, Json state, int64_t keep,
                        const std::function<void(const fs::path&)>& write) {
  check_still_there();
  const fs::path target = path_ / "checkpoints" / ("step_" + std::to_string(step));
  if (fs::path kept = target; fs::exists(target) && !list_checkpoints(path_).contains(step)) {
    while (fs::exists(kept)) kept += ".kept";  // it is not ours, so not ours to remove
    fs::rename(target, kept);
    note(target.string() + " was in the way and is now " + kept.string());
  }
  write_whole(target, [&](const fs::path& directory) {
    write(directory);
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (entry.is_regular_file())
        state["checksums"][fs::relative(entry.path(), directory)] =
            checksum(std::ifstream(entry.path(), std::ios::binary));
    }
    for (const char* log : kLogs) {
      flush_to_disk(path_ / log);
      state["log_bytes"][log] = fs::file_size(path_ / log);
    }
    // nlohmann::json sorts by key.
    state["checksum"] = checksum(std::istringstream(nlohmann::json(state).dump()));
    write_text(directory / "state.json", state.dump(2) + "\n");
  });
  auto all = list_checkpoints(path_);
  for (; std::ssize(all) > keep; all.erase(all.begin())) fs::remove_all(all.begin()->second);
}

}  // namespace tiny_zero
