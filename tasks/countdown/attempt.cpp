#include "tasks/countdown/attempt.h"

#include <algorithm>
#include <charconv>

namespace tiny_zero::countdown {
namespace {

constexpr std::string_view kDigits = "0123456789";

/// A value that is still to be used.
struct Part {
  int64_t written = 0;
  Rational value;
  std::string expression;
  std::string tree;
};

std::string bracketed(const std::string& text) {
  return text.find_first_not_of(kDigits) == std::string::npos ? text : "(" + text + ")";
}

/// Replaces the parts i and j by "i op j", whose result is written as `written`.
void combine(std::vector<Part>& parts, size_t i, char op, size_t j, int64_t written) {
  const Part a = parts[i], b = parts[j];
  std::string first = bracketed(a.tree), second = bracketed(b.tree);
  if ((op == '+' || op == '*') && second < first) std::swap(first, second);
  parts[i] = {written, apply(op, a.value, b.value),
              bracketed(a.expression) + op + bracketed(b.expression), first + op + second};
  parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(j));
}

/// Appends left[i] op left[j], whose result replaces left[i]; false, and nothing changed, if the
/// second is larger or the result is no integer in [0, max_value].
bool append(std::vector<Equation>& equations, std::vector<int64_t>& left, size_t i, char op,
            size_t j, int64_t max_value) {
  const Rational value = apply(op, {left[i], 1}, {left[j], 1});
  if (left[i] < left[j] || value.den != 1 || value.num < 0 || value.num > max_value) return false;
  equations.push_back({left[i], op, left[j], value.num});
  left[i] = value.num;
  left.erase(left.begin() + static_cast<std::ptrdiff_t>(j));
  return true;
}

/// How many equations can be written with that many values left: pairs times operators.
int64_t equations_of(size_t values) { return static_cast<int64_t>(values * (values - 1) / 2 * 4); }

/// Reads an unsigned integer at `at` and moves past its digits; false if there is none or it does
/// not fit 64 bits.
bool read_number(std::string_view text, size_t& at, int64_t& number) {
  const size_t start = at;
  at = std::min(text.find_first_not_of(kDigits, at), text.size());
  return at > start &&
         std::from_chars(text.data() + start, text.data() + at, number).ec == std::errc();
}

}  // namespace

std::string Attempt::text() const {
  std::string text;
  for (const Equation& e : equations) {
    if (!text.empty()) text += ',';
    text += std::to_string(e.a) + e.op + std::to_string(e.b) + '=' + std::to_string(e.result);
  }
  return text;
}

int64_t random_target(std::vector<int64_t> numbers, int64_t max_value, Random& random) {
  std::vector<Equation> equations;
  while (numbers.size() > 1) {
    // Rejection sampling. One choice always passes: the larger minus the smaller.
    const auto draw = [&](size_t n) { return static_cast<size_t>(random.between(0, n - 1)); };
    const size_t i = draw(numbers.size()), j = draw(numbers.size());
    const char op = kOperators[draw(4)];
    if (i != j) append(equations, numbers, i, op, j, max_value);
  }
  return numbers.front();
}

std::optional<Attempt> next_attempt(const std::vector<int64_t>& numbers, int64_t max_value,
                                    int64_t& code) {
  int64_t codes = 1;
  for (size_t values = numbers.size(); values > 1; --values) codes *= equations_of(values);
  for (int64_t step = 1;;) {
    // Skips all codes with the same equations up to the one that cannot be done.
    code = (code / step + 1) * step;
    if (code >= codes) return std::nullopt;
    std::vector<int64_t> left = numbers;
    std::vector<Equation> equations;
    for (step = codes; left.size() > 1;) {
      const int64_t rest = code % step, choice = rest / (step /= equations_of(left.size()));
      auto i = static_cast<size_t>(choice / 4), j = size_t{1};
      while (i >= j) i -= j++;
      if (left[i] < left[j]) std::swap(i, j);
      if (!append(equations, left, i, kOperators[choice % 4], j, max_value)) break;
    }
    if (left.size() == 1) return replay(numbers, equations);
  }
}

std::optional<Attempt> replay(const std::vector<int64_t>& numbers,
                              const std::vector<Equation>& equations) {
  if (equations.size() + 1 != numbers.size()) return std::nullopt;
  std::vector<Part> parts;
  for (const int64_t number : numbers) {
    const std::string text = std::to_string(number);
    parts.push_back({number, {number, 1}, text, text});
  }
  for (const Equation& e : equations) {
    const auto find = [&](int64_t written, size_t except) {
      size_t at = 0;
      while (at < parts.size() && (parts[at].written != written || at == except)) ++at;
      return at;
    };
    const size_t i = find(e.a, parts.size()), j = find(e.b, i);
    if (i == parts.size() || j == parts.size()) return std::nullopt;
    combine(parts, i, e.op, j, e.result);
  }
  const Part& last = parts.front();
  return Attempt{equations, last.value, last.expression, last.tree};
}

std::vector<Equation> find_equations(std::string_view text) {
  std::vector<Equation> equations;
  size_t at = 0;
  while ((at = text.find_first_of(kDigits, at)) != std::string_view::npos) {
    const bool inside =
        at > 0 && std::string_view("+-*/().=").find(text[at - 1]) != std::string_view::npos;
    Equation e;
    if (!read_number(text, at, e.a) || inside) continue;
    size_t ahead = at;  // on a mismatch b may start the next equation: read twice at most
    if (ahead >= text.size() || kOperators.find(text[ahead]) == std::string_view::npos) continue;
    e.op = text[ahead++];
    if (!read_number(text, ahead, e.b) || ahead >= text.size() || text[ahead++] != '=') continue;
    if (!read_number(text, ahead, e.result)) continue;
    equations.push_back(e);
    at = ahead;
  }
  return equations;
}

}  // namespace tiny_zero::countdown
