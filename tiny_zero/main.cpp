// tiny_zero VERB [--setting value ...]: reads the options, prints them, calls the verb.

#include <ATen/Parallel.h>
#include <malloc.h>

#include <cxxopts.hpp>
#include <iostream>

#include "tiny_zero/settings/progress.h"
#include "tiny_zero/verbs/resume.h"
#include "tiny_zero/verbs/verbs.h"

namespace {

using namespace tiny_zero;

void print_verbs(const std::vector<Verb>& verbs) {
  std::cout << "tiny_zero VERB [--setting value ...]\n\n";
  for (const auto& verb : verbs)
    std::cout << "  " << verb.name << std::string(15 - verb.name.size(), ' ') << verb.help << '\n';
  std::cout << "\ntiny_zero VERB --help lists a verb's settings.\n";
}

/// Reads recipe and flags into the settings, flags last; with --resume the run's own settings come
/// before the flags and replace the recipe. Locks the run that the verb writes before it reads it.
/// Returns false if --help was asked for, after printing it.
bool read_options(const Verb& verb, int argc, char** argv, Config& config, const Settings& settings,
                  const std::vector<std::string>& sections) {
  cxxopts::Options options("tiny_zero " + verb.name, verb.help);
  options.set_width(120).allow_unrecognised_options();
  options.add_options()("h,help", "print this text")(
      "recipe", "file of `name = value  # reason` lines; flags override it",
      cxxopts::value<std::string>());
  for (const auto& setting : settings) {
    const bool shown =
        std::find(sections.begin(), sections.end(), setting.section) != sections.end();
    auto value = cxxopts::value<std::string>()->default_value(setting.get());
    if (setting.is_flag) value->implicit_value("true");
    options.add_options(shown ? setting.section : "other")(
        setting.name,
        setting.help + (setting.allowed == "any text" ? "" : " (" + setting.allowed + ")"), value);
  }
  const auto given = options.parse(argc, argv);
  if (given.count("help") > 0) {
    auto groups = sections;
    groups.insert(groups.begin(), "");
    std::cout << options.help(groups);
    return false;
  }
  for (const auto& unknown : given.unmatched()) {
    settings.find(unknown.substr(
        std::min(unknown.find_first_not_of('-'), unknown.size())));  // throws with the nearest name
    throw std::invalid_argument("\"" + unknown +
                                "\" is not understood; settings are given as --name value");
  }
  if (given.count("recipe") > 0) settings.read_recipe(given["recipe"].as<std::string>());
  apply_flags(settings, given);
  const auto run = run_path(config);
  if (verb.writes_run && (!config.resume || std::filesystem::exists(run))) lock_run(run);
  if (config.resume) read_own_settings(config, settings, given);
  return true;
}

}  // namespace

int main(int argc, char** argv) try {
  // Large tensors come and go at every step: keep their pages instead of returning them to the
  // system each time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  const auto verbs = make_verbs();
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    print_verbs(verbs);
    return 0;
  }
  const auto verb = std::find_if(verbs.begin(), verbs.end(),
                                 [&](const Verb& candidate) { return candidate.name == name; });
  if (verb == verbs.end())
    throw std::invalid_argument("there is no verb \"" + name + "\"; tiny_zero --help lists them");
  if (verb->pipe) {  // reads and writes in blocks
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);
  }

  Config config;
  Settings settings = config.settings();
  std::vector<std::string> sections = verb->sections;
  std::map<std::string, std::unique_ptr<Task>>
      tasks;  // all of them, since a recipe may hold any task's settings
  for (const auto& task_name : task_names()) {
    tasks[task_name] = make_task(task_name);
    settings.append(tasks[task_name]->settings());
    sections.push_back(task_name);
  }
  if (!read_options(*verb, argc - 1, argv + 1, config, settings, sections)) return 0;
  config.validate();
  if (!tasks.contains(config.task)) make_task(config.task);  // throws with the known names
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  if (config.show_settings && !verb->pipe) {  // each log opens with the settings that made it
    std::ostream& log = config.json == "-" ? std::cerr : std::cout;
    settings.write(log, sections);
    log << std::endl;
  }
  tasks[config.task]->prepare(static_cast<uint64_t>(config.seed));
  catch_interrupts();
  verb->run(config, settings, *tasks[config.task]);
  return 0;
} catch (const c10::Error& error) {
  std::cerr << "tiny_zero: " << error.what_without_backtrace() << '\n';
  return 1;
} catch (const std::exception& error) {
  std::cerr << "tiny_zero: " << error.what() << '\n';
  return 1;
}
