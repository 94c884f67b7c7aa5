// tiny_zero VERB [--setting value ...]: reads the options, prints them, calls the verb.

#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/version.h>

#include <cctype>
#include <cstdio>
#include <cxxopts.hpp>
#include <iostream>

#include "tiny_zero/files/json.h"
#include "tiny_zero/model.h"
#include "tiny_zero/settings/progress.h"
#include "tiny_zero/verbs/verbs.h"

namespace {

using namespace tiny_zero;

void print_verbs(const std::vector<Verb>& verbs) {
  std::cout << "tiny_zero VERB [--setting value ...]\n\n";
  for (const auto& verb : verbs)
    std::cout << "  " << verb.name << std::string(15 - verb.name.size(), ' ') << verb.help << '\n';
  std::cout
      << "\ntiny_zero VERB --help lists a verb's settings, VERB --help SECTION a part of them.\n"
         "tiny_zero --version tells what was built.\n";
}

/// Reads recipe and flags into the settings, flags last, and prints what came of it, since each log
/// opens with the settings that made it. Returns false if --help was asked for, after printing it.
bool read_options(const std::vector<Verb>& verbs, const Verb& verb, int argc, char** argv,
                  Config& config, const Settings& settings) {
  cxxopts::Options options("tiny_zero " + verb.name, verb.help);
  options.set_width(120).allow_unrecognised_options();
  options.add_options()("h,help", "print this text, or --help SECTION")(
      "recipe", "file of `name = value  # reason` lines; flags override it",
      cxxopts::value<std::string>());
  std::vector<std::string> sections{""};  // that the verb reads
  for (const auto& setting : settings) {
    const bool shown = setting.in(verb.reads);
    if (shown && !setting.in(sections)) sections.push_back(setting.section);
    auto value = cxxopts::value<std::string>()->default_value(setting.get());
    if (setting.is_flag) value->implicit_value("true");
    std::string help = setting.help;
    if (setting.allowed != "any text") help += " (" + setting.allowed + ")";
    for (const auto& need : setting.needs) help += "; needs " + need;
    options.add_options(shown ? setting.section : "other")(setting.name, help, value);
  }
  for (int i = 1; i < argc; ++i) {  // else -lambda would be read as -l -a -m ...
    const std::string word = argv[i];
    if (word.size() < 3 || word[0] != '-' || !std::isalpha(static_cast<unsigned char>(word[1])))
      continue;
    settings.find(word.substr(1, word.find('=') - 1));  // throws if two dashes would not help
    throw std::invalid_argument("\"" + word + "\" has one dash, settings take two: -" + word);
  }
  const auto given = options.parse(argc, argv);
  if (given.count("help") > 0) {
    const std::vector<std::string> wanted = given.unmatched();  // train --help loss
    std::string all;
    for (const auto& section : sections) all += section.empty() ? "" : "\n  " + section;
    if (!wanted.empty() && (all + "\n").find("\n  " + wanted[0] + "\n") == std::string::npos)
      throw std::invalid_argument(verb.name + " has no section \"" + wanted[0] + "\", but:" + all);
    std::cout << options.help(wanted.empty() ? sections : wanted);
    return false;
  }
  for (const auto& unknown : given.unmatched()) {
    const std::string name = unknown.substr(0, unknown.find('='));
    settings.find(name.substr(std::min(name.find_first_not_of('-'), name.size())));  // throws
    throw std::invalid_argument("\"" + unknown +
                                "\" is not understood; settings are given as --name value");
  }
  std::string source = "the defaults";
  std::set<std::string> in_recipe;
  const auto apply = [&](const std::string& only = "") {
    if (given.count("recipe") > 0)
      in_recipe = settings.read_recipe(source = given["recipe"].as<std::string>());
    for (const auto& argument : given.arguments()) {
      if (argument.key() == "recipe" || (!only.empty() && argument.key() != only)) continue;
      settings.find(argument.key()).parse(argument.value());
    }
  };
  apply();
  config.resume = config.resume && settings.find("resume").in(verb.reads);
  if (config.resume) {  // the run's own settings come first; flags may still change them, to train
                        // longer for example
    const auto own = std::filesystem::path(config.runs_dir) / config.name / "settings.conf";
    if (!std::filesystem::exists(own)) {
      throw std::invalid_argument(own.parent_path().string() +
                                  " holds no checkpoint to resume; leave --resume out to start it");
    }
    settings.read_recipe(own);
    apply();
  }
  std::ostream& log = verb.pipe || config.json == "-" ? std::cerr : std::cout;
  if (!config.model.empty() && !config.resume && settings.find("model").in(verb.reads)) {
    const auto model = model_directory(config), own = settings_of_run(model);
    if (verb.like_run && !own.empty()) {
      log << "# task and sampling settings of " << own.string() << '\n';
      auto as_trained = task_sections();
      as_trained.push_back("sampling");
      settings.read_recipe(own, as_trained);
      apply();
    }
    config.model = model.string();
  }
  std::map<std::string, std::string> in_vain;  // need -> settings of the recipe
  for (const auto& setting : settings) {
    if (given.count(setting.name) > 0) {
      check_effect(setting, verbs, verb, config, settings);
    } else if (in_recipe.contains(setting.name) && setting.in(verb.reads) &&
               setting.get() != given[setting.name].as<std::string>()) {  // the default
      in_vain[settings.unmet(setting)] += " " + setting.name;
    }
  }
  in_vain.erase("");
  if (config.show_settings || !verb.pipe) {
    log << "# settings: " << (config.resume ? "the run's own" : source)
        << (config.show_settings ? "" : ", except for these (--show-settings prints all)") << '\n';
    settings.write(log, [&](const Setting& one) {
      return one.in(verb.reads) && (config.show_settings || given.count(one.name) > 0);
    });
  }
  std::string note;
  for (const auto& [need, names] : in_vain) note += names + " (needs " + need + ")";
  if (!note.empty()) log << "# without effect in " << source << ":" << note << '\n';
  if (!verb.pipe) log << std::endl;
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
  if (name == "--version") {
    std::cout << "tiny_zero " TINY_ZERO_VERSION ", LibTorch " TORCH_VERSION
                 "\nCUDA kernels: " TINY_ZERO_CUDA_KERNELS "\n";
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
  std::map<std::string, std::unique_ptr<Task>>
      tasks;  // all of them, since a recipe may hold any task's settings
  for (const auto& task_name : task_names()) {
    tasks[task_name] = make_task(task_name);
    settings.append(tasks[task_name]->settings().needs("task = " + task_name));
  }
  if (!read_options(verbs, *verb, argc - 1, argv + 1, config, settings)) return 0;
  config.validate();
  if (settings.find("device").in(verb->reads)) check_device(*verb, config);
  if (!tasks.contains(config.task)) make_task(config.task);  // throws with the known names
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  tasks[config.task]->prepare(static_cast<uint64_t>(config.seed));
  verb->run(config, settings, *tasks[config.task]);
  if (!std::cout.flush() || std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw std::runtime_error("standard output cannot be written: is the disk full?");
  return exit_code();
} catch (const c10::Error& error) {
  std::cerr << "tiny_zero: " << visible(error.what_without_backtrace()) << '\n';
  return 1;
} catch (const std::exception& error) {
  std::cerr << "tiny_zero: " << visible(error.what()) << '\n';
  return 1;
}
