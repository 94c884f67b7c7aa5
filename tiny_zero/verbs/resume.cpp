#include "tiny_zero/verbs/resume.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>
#include <map>
#include <sstream>
#include <system_error>

#include "tiny_zero/model.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

namespace fs = std::filesystem;

void lock_run(const fs::path& run) {
  std::error_code error;
  fs::create_directories(run, error);
  if (error)
    throw std::runtime_error(run.string() + " cannot be made: " + error.message() +
                             "; --runs-dir names another place");
  const std::string path = run / "lock";
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) throw std::system_error(errno, std::generic_category(), path);
  // A file system without locks says something else (ENOSYS): there, only start() is exclusive.
  if (flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(file);
    std::string holder;
    std::getline(std::ifstream(path), holder);
    if (holder.empty()) holder = "another process";  // which has not come to that yet
    throw std::runtime_error(run.string() + " is in use by " + holder +
                             "; wait for it, stop it, or take another --name");
  }
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  if (ftruncate(file, 0) == 0) dprintf(file, "process %d on %s\n", getpid(), host);
}

void apply_flags(const Settings& settings, const cxxopts::ParseResult& given) {
  for (const auto& argument : given.arguments())
    if (argument.key() != "recipe") settings.find(argument.key()).parse(argument.value());
}

void read_own_settings(Config& config, const Settings& settings, const cxxopts::ParseResult& given,
                       const std::string& recipe) {
  const fs::path run = run_path(config), own = run / "settings.conf";
  checkpoint_to_resume(run);  // there must be one
  const Config here = std::exchange(config, Config());
  settings.read_recipe(own);
  config.name = here.name;  // the run may have been moved
  config.runs_dir = here.runs_dir;
  config.resume = true;
  std::map<std::string, std::string> before;
  for (const auto& setting : settings) before[setting.name] = setting.get();
  if (given.count("recipe") > 0) {
    const auto name = given["recipe"].as<std::string>();
    std::istringstream text(recipe);
    settings.parse_recipe(text, name);
    for (const auto& setting : settings) {
      const std::string& kept = before[setting.name];
      if (setting.get() != kept && given.count(setting.name) == 0)
        std::cerr << "tiny_zero: the run keeps " << setting.name << " = " << kept << "; " << name
                  << " says " << setting.get() << ", and only a flag changes it\n";
      setting.parse(kept);
    }
  }
  apply_flags(settings, given);
  if (config.model != before["model"]) config.model = model_directory(config).string();
  for (const auto& setting : settings) {
    const std::string now = setting.get(), was = before[setting.name];
    std::error_code no_file;
    if (now == was || (setting.identity && fs::equivalent(now, was, no_file))) continue;
    if (setting.identity)
      throw std::invalid_argument(
          setting.name + " is \"" + was + "\" in " + own.string() + ", \"" + now +
          "\" makes another run: take another --name; or edit that line if only a file has moved");
    config.changes += setting.name + " = " + now + "  # was " + was + "\n";
  }
}

}  // namespace tiny_zero
