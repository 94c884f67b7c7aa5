#include "tiny_zero/settings/settings.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace tiny_zero {
namespace {

template <class Number>
std::string to_text(Number value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

/// The whole text as a number of this type; false if anything is left over.
template <class Number>
bool from_text(const std::string& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

template <class Number>
std::string range_text(const char* kind, Number min, Number max, bool bounded_below,
                       bool bounded_above) {
  std::string text = kind;
  if (bounded_below) text += ", at least " + to_text(min);
  if (bounded_above) text += ", at most " + to_text(max);
  return text;
}

[[noreturn]] void refuse(const std::string& name, const std::string& text,
                         const std::string& allowed) {
  throw std::invalid_argument(name + " is \"" + text + "\", want " + allowed);
}

std::string strip(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/// Levenshtein distance, for "did you mean".
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row.back();
}

}  // namespace

Settings& Settings::section(const std::string& name, bool identity) {
  section_ = name;
  section_identity_ = identity;
  return *this;
}

Settings& Settings::identity() {
  list_.back().identity = true;
  return *this;
}

Settings& Settings::push(const std::string& name, const std::string& help, std::string allowed,
                         std::function<std::string()> get,
                         std::function<void(const std::string&)> set, bool is_flag) {
  list_.push_back({section_, name, help, std::move(allowed), std::move(get), std::move(set),
                   is_flag, section_identity_});
  return *this;
}

Settings& Settings::add(const std::string& name, int64_t& value, int64_t min, int64_t max,
                        const std::string& help) {
  const std::string allowed =
      range_text("a whole number", min, max, min != std::numeric_limits<int64_t>::min(),
                 max != std::numeric_limits<int64_t>::max());
  return push(
      name, help, allowed, [&value] { return to_text(value); },
      [=, &value](const std::string& text) {
        int64_t parsed = 0;
        if (!from_text(text, parsed) || parsed < min || parsed > max) refuse(name, text, allowed);
        value = parsed;
      });
}

Settings& Settings::add(const std::string& name, double& value, double min, double max,
                        const std::string& help) {
  const std::string allowed = range_text("a number", min, max, min != -kAny, max != kAny);
  return push(
      name, help, allowed, [&value] { return to_text(value); },
      [=, &value](const std::string& text) {
        double parsed = 0;  // !(>= and <=) also refuses nan
        if (!from_text(text, parsed) || !(parsed >= min && parsed <= max))
          refuse(name, text, allowed);
        value = parsed;
      });
}

Settings& Settings::add(const std::string& name, bool& value, const std::string& help) {
  const auto set = [=, &value](const std::string& text) {
    if (text != "true" && text != "false") refuse(name, text, "true or false");
    value = text == "true";
  };
  return push(
      name, help, "true or false", [&value] { return value ? "true" : "false"; }, set,
      /*is_flag=*/true);
}

Settings& Settings::add(const std::string& name, std::string& value, const std::string& help) {
  const auto set =
      [=, &value](const std::string& text) {  // what a recipe could not give back is refused
        if (text != strip(text) || text.find_first_of("#\r\n") != std::string::npos)
          refuse(name, text, "text without # or outer blanks");
        value = text;
      };
  return push(
      name, help, "any text", [&value] { return value; }, set);
}

Settings& Settings::add_choice(const std::string& name, const std::vector<std::string>& names,
                               std::function<std::string()> get,
                               const std::function<void(size_t)>& set, const std::string& help) {
  std::string allowed = "one of";
  for (const auto& choice : names) allowed += (choice == names.front() ? " " : ", ") + choice;
  return push(name, help, allowed, std::move(get), [=](const std::string& text) {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found == names.end()) refuse(name, text, allowed);
    set(static_cast<size_t>(found - names.begin()));
  });
}

void Settings::append(const Settings& other) {
  for (const auto& setting : other) (list_.push_back(setting), identity());
}

const Setting& Settings::find(const std::string& name) const {
  if (list_.empty()) throw std::invalid_argument("there is no setting \"" + name + "\"");
  const Setting* nearest = &list_.front();
  for (const auto& setting : list_) {
    if (setting.name == name) return setting;
    if (edit_distance(name, setting.name) < edit_distance(name, nearest->name)) nearest = &setting;
  }
  throw std::invalid_argument("there is no setting \"" + name + "\"; the nearest is \"" +
                              nearest->name + "\", and --help lists them all");
}

void Settings::read_recipe(const std::filesystem::path& path) const {
  std::ifstream file(path);
  if (!file)
    throw std::invalid_argument("recipe " + path.string() +
                                " cannot be opened; --recipe wants a file");
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    const std::string text = strip(line.substr(0, line.find('#')));
    if (text.empty()) continue;
    const auto equals = text.find('=');
    try {
      if (equals == std::string::npos) {
        throw std::invalid_argument("found \"" + text + "\", want `name = value  # reason`");
      }
      find(strip(text.substr(0, equals))).parse(strip(text.substr(equals + 1)));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(path.string() + ":" + std::to_string(number) + ": " +
                                  error.what());
    }
  }
}

void Settings::write(std::ostream& out, const std::vector<std::string>& sections) const {
  std::string heading;
  for (const auto& setting : list_) {
    const bool wanted = sections.empty() || std::find(sections.begin(), sections.end(),
                                                      setting.section) != sections.end();
    if (!wanted) continue;
    if (setting.section != heading) out << "# " << (heading = setting.section) << '\n';
    out << setting.name << " = " << setting.get() << '\n';
  }
}

}  // namespace tiny_zero
