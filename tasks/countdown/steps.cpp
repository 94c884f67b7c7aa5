// The steps of a response for process supervision: its equations, right or wrong [GRPO 4.1.3].
#include <algorithm>
#include <cctype>

#include "tasks/countdown/countdown.h"

namespace tiny_zero::countdown {
namespace {

// What stands in an expression, the bytes of × ÷ · − included; a line break ends it.
constexpr std::string_view kExpression = "0123456789+-*/() \xC3\x97\xB7\xC2\xE2\x88\x92";
constexpr std::string_view kDigits = "0123456789";

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  return text.substr(0, text.find_last_not_of(' ') + 1);
}

/// The expression that ends this text, after a list's "- " or an open bracket of a sentence.
Expression left_side(std::string_view text) {
  std::string_view side = trimmed(text.substr(text.find_last_not_of(kExpression) + 1));
  Expression left = parse_expression(side);
  if (!left.parsed || side.find(' ') == 1) {
    side.remove_prefix(std::min(side.find_first_of(kDigits), side.size()));
    left = parse_expression(side);
  }
  // Part of a word or of a decimal number: "x1+2", "1.5*4".
  const auto start = side.data() - text.data();
  const char before = start > 0 ? text[static_cast<size_t>(start) - 1] : ' ';
  if (before == '.' || std::isalpha(static_cast<unsigned char>(before))) left.parsed = false;
  return left;
}

}  // namespace

std::vector<StepReward> equation_steps(std::string_view response, bool finished) {
  const std::string_view thinking = response.substr(0, response.find("<answer>"));
  std::vector<StepReward> steps;
  size_t from = 0;  // after the last "="
  for (size_t at; (at = thinking.find('=', from)) != std::string_view::npos; from = at + 1) {
    const Expression left = left_side(thinking.substr(from, at - from));
    if (!left.parsed || left.literals.size() < 2) continue;
    // What follows is an expression, as in "6*6=40-4", or a number with words or a "-" behind it.
    const std::string_view rest = thinking.substr(at + 1);
    std::string_view side = trimmed(rest.substr(0, rest.find_first_not_of(kExpression)));
    Expression right = parse_expression(side);
    if (!right.parsed) {
      side = side.substr(0, side.find_first_not_of(kDigits));
      right = parse_expression(side);
    }
    const auto end = static_cast<size_t>(side.data() + side.size() - thinking.data());
    const bool is_decimal =
        thinking.substr(end, 1) == "." && thinking.find_first_of(kDigits, end) == end + 1;
    const bool is_cut_off = !finished && end == response.size();  // "=3" may have become "=36"
    if (!right.parsed || is_decimal || is_cut_off) continue;
    const bool is_right = left.value == right.value && left.value.den != 0;
    steps.push_back({static_cast<int64_t>(end), is_right ? 1.0 : 0.0});
  }
  return steps;
}

}  // namespace tiny_zero::countdown
