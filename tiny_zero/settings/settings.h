#pragma once
// Settings: each is declared once with its name, section, allowed values, help, and what it needs
// to have an effect. The help text, the recipe reader, the table printed at the start and the copy
// saved with a run all walk the same list.

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <ostream>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace tiny_zero {

struct Setting {
  std::string section;  // heading in --help
  std::string name;     // "kl-coef": --kl-coef on the command line, kl-coef in a recipe
  std::string help;     // what it does, in what unit
  std::string allowed;  // "in [0, 1]" or "one of ppo, grpo"
  std::function<std::string()> get;  // current value as text; parse(get()) changes nothing
  /// Throws std::invalid_argument with name, value and what is allowed.
  std::function<void(const std::string&)> parse;
  bool is_flag = false;                 // boolean: --name alone means true
  bool identity = false;                // another value makes another run: --resume refuses it
  std::vector<std::string> needs = {};  // to have an effect; conditions, see Settings::needs()

  /// Whether the list holds the setting's name or its section.
  bool in(const std::vector<std::string>& names) const;
};

/// A list of settings that point into the structs that declared them, which must outlive it.
class Settings {
 public:
  static constexpr double kAny = std::numeric_limits<double>::infinity();
  static constexpr const char* kAllowedText = "text without # or outer blanks";

  /// Starts a section: the settings added next belong to it, and have its Setting::identity.
  Settings& section(const std::string& name, bool identity = false);
  /// An int64_t or a double, from min to max, both included.
  template <class Number>
  Settings& add(const std::string& name, Number& value, std::type_identity_t<Number> min,
                std::type_identity_t<Number> max, const std::string& help);
  Settings& add(const std::string& name, bool& value, const std::string& help);
  Settings& add(const std::string& name, std::string& value, const std::string& help);
  /// An enum whose values count from 0. What flags and recipes call them stands beside it:
  ///   constexpr auto choices(Enum) { return std::array{"first", ...}; }
  template <class Enum>
  requires std::is_enum_v<Enum> Settings& add(const std::string& name, Enum& value,
                                              const std::string& help) {
    constexpr auto names = choices(Enum{});
    return add_choice(
        name, {names.begin(), names.end()}, [&value] { return static_cast<size_t>(value); },
        [&value](size_t index) { value = static_cast<Enum>(index); }, help);
  }

  /// Marks the setting just added: Setting::identity.
  Settings& identity();

  /// Appends a task's settings, all of them part of a run's identity.
  void append(const Settings& other);
  /// What settings need to have an effect, such as "kl != none" or "epochs > 1 or mini-batches >
  /// 1"; "nothing" is empty text.   @param names  of settings or sections; if empty, all so far
  Settings& needs(const std::string& condition, const std::vector<std::string>& names = {});
  /// The first condition that the setting needs and that does not hold, "" if there is none.
  std::string unmet(const Setting& setting) const;
  /// The setting of this name. If there is none, throws std::invalid_argument with what papers and
  /// other trainers mean by that name, or with a known name that is near.
  const Setting& find(const std::string& name) const;
  /// Reads `name = value  # reason` lines; with `only`, those of these settings or sections, and
  /// names of no setting are passed over. Errors give the file and line.
  /// @return the names of the settings that were read
  std::set<std::string> read_recipe(const std::filesystem::path& path,
                                    const std::vector<std::string>& only = {}) const;
  /// The same for text that has been read; `name` is the file's, for errors.
  std::set<std::string> parse_recipe(std::istream& text, const std::string& name,
                                     const std::vector<std::string>& only = {}) const;
  /// Writes `name = value` lines, which read_recipe() reads back, of those that are `wanted` or
  /// all.
  void write(std::ostream& out, const std::function<bool(const Setting&)>& wanted = {}) const;

  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

 private:
  Settings& add_choice(const std::string& name, const std::vector<std::string>& names,
                       const std::function<size_t()>& get, const std::function<void(size_t)>& set,
                       const std::string& help);
  /// @param read  takes the value from text; false if that is not allowed
  Settings& push(const std::string& name, const std::string& help, const std::string& allowed,
                 const std::function<std::string()>& get,
                 const std::function<bool(const std::string&)>& read, bool is_flag = false);
  std::vector<Setting> list_;
  std::string section_;
  bool section_identity_ = false;
};

}  // namespace tiny_zero
