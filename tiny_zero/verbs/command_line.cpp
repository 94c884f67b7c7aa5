#include "tiny_zero/verbs/command_line.h"

#include <algorithm>
#include <cctype>
#include <cxxopts.hpp>
#include <iostream>
#include <sstream>

#include "tiny_zero/model.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/resume.h"

namespace tiny_zero {
namespace {

/// The options that cxxopts parses and prints; settings that the verb does not read are in "other".
cxxopts::Options declare_options(const Verb& verb, const Settings& settings) {
  cxxopts::Options options("tiny_zero " + verb.name, verb.help);
  options.set_width(120).allow_unrecognised_options();
  options.add_options()("h,help", "print this text, or --help SECTION")(
      "recipe", "file of `name = value  # reason` lines; flags override it",
      cxxopts::value<std::string>());
  for (const auto& setting : settings) {
    auto value = cxxopts::value<std::string>()->default_value(setting.get());
    if (setting.is_flag) value->implicit_value("true");
    std::string help = setting.help;
    if (setting.allowed != Settings::kAllowedText) help += " (" + setting.allowed + ")";
    for (const auto& need : setting.needs) help += "; needs " + need;
    options.add_options(setting.in(verb.reads) ? setting.section : "other")(setting.name, help,
                                                                            value);
  }
  return options;
}

/// `-lambda` would be read as -l -a -m ...
void refuse_one_dash(int argc, char** argv, const Settings& settings) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i], before = i > 1 ? argv[i - 1] : "";
    const bool is_value = std::any_of(settings.begin(), settings.end(), [&](const auto& setting) {
      return "--" + setting.name == before && !setting.is_flag;
    });
    if (is_value || word.size() < 3 || word[0] != '-' ||
        !std::isalpha(static_cast<unsigned char>(word[1])))
      continue;
    settings.find(word.substr(1, word.find('=') - 1));  // throws if two dashes would not help
    throw std::invalid_argument("\"" + word + "\" has one dash, settings take two: -" + word);
  }
}

void refuse_unknown(const std::vector<std::string>& unmatched, const Settings& settings) {
  for (const auto& unknown : unmatched) {
    const std::string name = unknown.substr(0, unknown.find('='));
    if (!name.starts_with('-'))
      throw std::invalid_argument(
          "\"" + unknown +
          "\" stands alone; settings are given as --name value, a recipe as "
          "--recipe FILE, true or false as --name=false");
    settings.find(name.substr(std::min(name.find_first_not_of('-'), name.size())));  // throws
    throw std::invalid_argument("\"" + unknown +
                                "\" is not understood; settings are given as --name value");
  }
}

/// All sections that the verb reads, or the wanted one: `train --help loss`.
void print_help(const cxxopts::Options& options, const Verb& verb, const Settings& settings,
                const std::vector<std::string>& wanted) {
  std::vector<std::string> sections{""};  // of --help and --recipe
  std::string names;
  for (const auto& setting : settings) {
    if (!setting.in(verb.reads) || setting.in(sections)) continue;
    sections.push_back(setting.section);
    names += "\n  " + setting.section;
  }
  if (!wanted.empty() && std::find(sections.begin(), sections.end(), wanted[0]) == sections.end())
    throw std::invalid_argument(verb.name + " has no section \"" + wanted[0] + "\", but:" + names);
  std::cout << options.help(wanted.empty() ? sections : wanted);
}

/// Throws std::invalid_argument if a setting, given as a flag, changes nothing in this verb.
void check_effect(const Setting& setting, const std::vector<Verb>& verbs, const Verb& verb,
                  const Config& config, const Settings& settings) {
  const std::string flag = "--" + setting.name + " has no effect ", need = settings.unmet(setting);
  const std::string decides = need.substr(0, need.find(' '));
  std::string others;
  for (const auto& other : verbs) others += setting.in(other.reads) ? " " + other.name : "";
  if (!setting.in(verb.reads))
    throw std::invalid_argument(flag + "in " + verb.name + ", only in" + others + "; leave it out");
  if (verb.name == "generate" && config.problem < 0 && config.problems == 0 &&
      setting.in(task_sections()))
    throw std::invalid_argument(flag +
                                "without --problem or --problems: a prompt is taken as it is");
  if (need.ends_with(" = nothing") || need.ends_with(" = -1") || need.ends_with(" = 0"))
    throw std::invalid_argument(flag + "beside --" + decides + ": leave one of them out");
  if (!need.empty())
    throw std::invalid_argument(flag + "with " + decides + " = " + settings.find(decides).get() +
                                ": it needs " + need + "; leave it out");
}

}  // namespace

bool read_command_line(const std::vector<Verb>& verbs, const Verb& verb, int argc, char** argv,
                       Config& config, const Settings& settings) {
  cxxopts::Options options = declare_options(verb, settings);
  refuse_one_dash(argc, argv, settings);
  const auto given = options.parse(argc, argv);
  if (given.count("help") > 0) {
    print_help(options, verb, settings, given.unmatched());
    return false;
  }
  refuse_unknown(given.unmatched(), settings);

  std::string source = "the defaults";
  std::set<std::string> in_recipe;
  std::ostringstream recipe;  // read once, as it may be a pipe
  if (given.count("recipe") > 0)
    recipe << open_text(source = given["recipe"].as<std::string>(), "--recipe wants it").rdbuf();
  const auto apply = [&] {
    std::istringstream text(recipe.str());
    in_recipe = settings.parse_recipe(text, source);
    apply_flags(settings, given);
  };
  apply();
  config.resume = config.resume && settings.find("resume").in(verb.reads);
  if (config.resume) {
    const auto run = run_path(config);
    if (verb.writes_run && std::filesystem::exists(run)) lock_run(run);
    read_own_settings(config, settings, given, recipe.str());
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

}  // namespace tiny_zero
