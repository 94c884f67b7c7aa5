#include "tiny_zero/settings/settings.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <sstream>
#include <utility>

#include "tiny_zero/files/json.h"

namespace tiny_zero {
namespace {

template <class Number>
std::string to_text(Number value) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

std::string strip(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/// Names that papers and other trainers use for what has another name here.
constexpr std::pair<const char*, const char*> kOtherNames[] = {
    {" beta kl-beta kl-weight kl-loss-coef init-kl-coef ", "kl-coef"},
    {" epsilon eps clip clip-range cliprange clip-ratio clip-eps ", "clip-low and clip-high"},
    {" lr actor-lr ", "learning-rate"},
    {" critic-lr ", "critic-learning-rate"},
    {" G g n num-generations n-samples-per-prompt ", "group-size"},
    {" batch-size train-batch-size rollout-batch-size ", "prompts-per-step and group-size"},
    {" mu num-iterations ppo-epochs ", "epochs"},
    {" steps max-steps ", "num-steps"},
    {" temp ", "temperature"},
    {" gae-lambda lam ", "lambda"},
    {" entropy entropy-coeff ", "entropy-coef"},
    {" max-tokens max-len max-new-tokens max-completion-length ", "max-response-tokens"}};

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

bool Setting::in(const std::vector<std::string>& names) const {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& one) { return one == name || one == section; });
}

Settings& Settings::section(const std::string& name, bool identity) {
  section_ = name;
  section_identity_ = identity;
  return *this;
}

Settings& Settings::identity() {
  list_.back().identity = true;
  return *this;
}

Settings& Settings::push(const std::string& name, const std::string& help,
                         const std::string& allowed, const std::function<std::string()>& get,
                         const std::function<bool(const std::string&)>& read, bool is_flag) {
  const auto parse = [=](const std::string& text) {
    if (!read(text)) throw std::invalid_argument(name + " is \"" + text + "\", want " + allowed);
  };
  list_.push_back({section_, name, help, allowed, get, parse, is_flag, section_identity_});
  return *this;
}

template <class Number>
Settings& Settings::add(const std::string& name, Number& value, std::type_identity_t<Number> min,
                        std::type_identity_t<Number> max, const std::string& help) {
  using Limits = std::numeric_limits<Number>;
  std::string allowed = std::is_integral_v<Number> ? "a whole number" : "a number";
  if (min > Limits::lowest()) allowed += ", at least " + to_text(min);
  if (max < Limits::max()) allowed += ", at most " + to_text(max);
  const auto read = [=, &value](const std::string& text) {
    Number parsed = 0;
    const char* const text_end = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), text_end, parsed);
    const bool whole = error == std::errc() && end == text_end;
    const bool fits = whole && parsed >= min && parsed <= max;  // false of nan
    if (fits) value = parsed;
    return fits;
  };
  return push(
      name, help, allowed, [&value] { return to_text(value); }, read);
}
template Settings& Settings::add(const std::string&, int64_t&, int64_t, int64_t,
                                 const std::string&);
template Settings& Settings::add(const std::string&, double&, double, double, const std::string&);

Settings& Settings::add(const std::string& name, bool& value, const std::string& help) {
  const auto read = [&value](const std::string& text) {
    const bool known = text == "true" || text == "false";
    if (known) value = text == "true";
    return known;
  };
  const auto get = [&value] { return value ? "true" : "false"; };
  return push(name, help, "true or false", get, read, /*is_flag=*/true);
}

Settings& Settings::add(const std::string& name, std::string& value, const std::string& help) {
  const auto read = [&value](const std::string& text) {  // what a recipe could not give back
    if (text != strip(text) || text.find_first_of("#\r\n") != std::string::npos) return false;
    value = text;
    return true;
  };
  return push(
      name, help, kAllowedText, [&value] { return value; }, read);
}

Settings& Settings::add_choice(const std::string& name, const std::vector<std::string>& names,
                               const std::function<size_t()>& get,
                               const std::function<void(size_t)>& set, const std::string& help) {
  std::string allowed = "one of";
  for (const auto& choice : names) allowed += (choice == names.front() ? " " : ", ") + choice;
  const auto read = [=](const std::string& text) {
    const auto found = std::find(names.begin(), names.end(), text);
    if (found != names.end()) set(found - names.begin());
    return found != names.end();
  };
  return push(
      name, help, allowed, [=] { return names.at(get()); }, read);
}

void Settings::append(const Settings& other) {
  for (const auto& setting : other) (list_.push_back(setting), identity());
}

Settings& Settings::needs(const std::string& condition, const std::vector<std::string>& names) {
  for (auto& setting : list_)
    if (names.empty() || setting.in(names)) setting.needs.push_back(condition);
  return *this;
}

std::string Settings::unmet(const Setting& setting) const {
  for (const auto& need : setting.needs) {
    std::istringstream words(need);
    bool holds = false;
    for (std::string name, sign, value, alternative; words >> name >> sign >> value;
         words >> alternative) {
      const std::string is = find(name).get();
      if (value == "nothing") value.clear();
      holds |= sign == ">" ? std::stod(is) > std::stod(value) : (sign == "=") == (is == value);
    }
    if (!holds) return need;
  }
  return "";
}

const Setting& Settings::find(const std::string& name) const {
  std::string plain = name, hint;
  std::replace(plain.begin(), plain.end(), '_', '-');
  size_t nearest = (name.size() + 4) / 3;  // what is farther away would mislead
  for (const auto& setting : list_) {
    if (setting.name == name) return setting;
    const size_t distance = edit_distance(plain, setting.name);
    if (distance < nearest) hint = "the nearest is \"" + setting.name + "\", and ";
    nearest = std::min(nearest, distance);
  }
  for (const auto& [others, here] : kOtherNames)
    if (std::string(others).find(" " + plain + " ") != std::string::npos)
      hint = "what others call that is " + std::string(here) + " here, and ";
  throw std::invalid_argument("there is no setting \"" + name + "\"; " + hint +
                              "--help lists them all");
}

std::set<std::string> Settings::read_recipe(const std::filesystem::path& path,
                                            const std::vector<std::string>& only) const {
  std::ifstream file = open_text(path, "want a file of `name = value` lines");
  return parse_recipe(file, path.string(), only);
}

std::set<std::string> Settings::parse_recipe(std::istream& file, const std::string& path,
                                             const std::vector<std::string>& only) const {
  std::set<std::string> names;
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    const std::string text = strip(line.substr(0, line.find('#')));
    if (text.empty()) continue;
    const auto equals = text.find('=');
    try {
      if (line.find('\0') != std::string::npos)
        throw std::invalid_argument("found a NUL byte, want a text file");
      if (equals == std::string::npos)
        throw std::invalid_argument("found \"" + text + "\", want `name = value  # reason`");
      const std::string name = strip(text.substr(0, equals));
      const auto known = [&](const Setting& one) { return one.name == name; };
      if (!only.empty() && std::none_of(begin(), end(), known)) continue;
      const Setting& setting = find(name);
      if (!only.empty() && !setting.in(only)) continue;
      setting.parse(strip(text.substr(equals + 1)));
      names.insert(setting.name);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(path + ":" + std::to_string(number) + ": " + error.what());
    }
  }
  return names;
}

void Settings::write(std::ostream& out, const std::function<bool(const Setting&)>& wanted) const {
  std::string heading;
  for (const auto& setting : list_) {
    if (wanted && !wanted(setting)) continue;
    if (setting.section != heading) out << "# " << (heading = setting.section) << '\n';
    out << setting.name << " = " << setting.get() << '\n';
  }
}

}  // namespace tiny_zero
