#include "tiny_zero/files/run_directory.h"

#include <fcntl.h>
#include <unistd.h>

#include <map>
#include <stdexcept>

#include "tiny_zero/settings/config.h"

namespace tiny_zero {
namespace {

namespace fs = std::filesystem;

/// Checkpoints by step.
std::map<int64_t, fs::path> list_checkpoints(const fs::path& run) {
  std::map<int64_t, fs::path> found;
  if (!fs::exists(run / "checkpoints")) return found;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints")) {
    const std::string name = entry.path().filename();
    if (name.starts_with("step_") && name.find('.') == std::string::npos)
      found[std::stoll(name.substr(5))] = entry.path();
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

}  // namespace

RunDirectory::RunDirectory(const Config& config) : path_(fs::path(config.runs_dir) / config.name) {
  if (config.resume && newest_checkpoint().empty()) {
    throw std::invalid_argument(path_.string() +
                                " holds no checkpoint to resume; remove it and leave --resume out");
  }
  if (!config.resume && fs::exists(path_ / "settings.conf")) {
    throw std::invalid_argument(
        path_.string() + " exists already; --resume continues it, another --name starts a new run");
  }
}

void RunDirectory::create(const Settings& settings) {
  fs::create_directories(path_ / "checkpoints");
  std::ofstream file(path_ / "settings.conf");
  settings.write(file);
  if (!file.flush())
    throw std::runtime_error((path_ / "settings.conf").string() + " cannot be written");
  open_logs(std::ios::trunc);
}

void RunDirectory::open_logs(std::ios::openmode mode) {
  metrics_.open(path_ / "metrics.jsonl", mode);
  samples_.open(path_ / "samples.jsonl", mode);
  if (!metrics_ || !samples_) {
    throw std::runtime_error(path_.string() + ": metrics.jsonl or samples.jsonl cannot be written");
  }
}

void RunDirectory::append(std::ofstream& file, const Json& line) {
  // The model may write bytes that are not UTF-8: the log shows U+FFFD, and the loop goes on.
  file << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!file.flush())
    throw std::runtime_error("metrics.jsonl or samples.jsonl cannot be written: is the disk full?");
}

void RunDirectory::save(int64_t step, Json state, int64_t keep,
                        const std::function<void(const fs::path&)>& write) {
  const fs::path target = path_ / "checkpoints" / ("step_" + std::to_string(step)),
                 aside = target.string() + ".partial";
  fs::remove_all(aside);
  fs::create_directories(aside);
  write(aside);
  for (const char* log : {"metrics.jsonl", "samples.jsonl"}) {
    flush_to_disk(path_ / log);
    state["log_bytes"][log] = fs::file_size(path_ / log);
  }
  write_text(aside / "state.json", state.dump(2) + "\n");
  for (const auto& entry : fs::recursive_directory_iterator(aside)) flush_to_disk(entry.path());
  fs::remove_all(target);
  fs::rename(aside, target);
  flush_to_disk(path_ / "checkpoints");
  auto all = list_checkpoints(path_);
  while (static_cast<int64_t>(all.size()) > keep) {
    fs::remove_all(all.begin()->second);
    all.erase(all.begin());
  }
}

fs::path newest_checkpoint(const fs::path& run) {
  const auto all = list_checkpoints(run);
  return all.empty() ? fs::path() : all.rbegin()->second;
}

Json RunDirectory::restore(const fs::path& checkpoint) {
  const Json state = read_json(checkpoint / "state.json", "a checkpoint holds it");
  for (const char* log : {"metrics.jsonl", "samples.jsonl"})
    fs::resize_file(path_ / log, state.at("log_bytes").at(log));
  open_logs(std::ios::app);
  return state;
}

}  // namespace tiny_zero
