#include "tasks/countdown/expression.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace tiny_zero::countdown {
namespace {

// Holds every product of two 64-bit numbers, and the sum of two such products.
__extension__ using Wide = __int128;

constexpr Rational kUndefined{0, 0};

Rational lowest_terms(Wide num, Wide den) {
  if (den == 0) return kUndefined;
  Wide a = num, b = den;
  while (b != 0) a = std::exchange(b, a % b);  // Euclid; |a| is the greatest common divisor
  if ((a < 0) != (den < 0)) a = -a;            // dividing by it then makes the denominator positive
  num /= a, den /= a;
  const bool fits = num >= INT64_MIN && num <= INT64_MAX && den <= INT64_MAX;
  return fits ? Rational{static_cast<int64_t>(num), static_cast<int64_t>(den)} : kUndefined;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Takes one symbol from the front of `text` and returns it in ASCII; '\0' for bytes that mean
/// nothing here.
char take_symbol(std::string_view& text) {
  static constexpr std::pair<std::string_view, char> kTypeset[] = {
      {"\u00d7", '*'}, {"\u00b7", '*'}, {"\u00f7", '/'}, {"\u2212", '-'}};
  for (const auto& [bytes, symbol] : kTypeset) {
    if (!text.starts_with(bytes)) continue;
    text.remove_prefix(bytes.size());
    return symbol;
  }
  const char symbol = text.front();
  text.remove_prefix(1);
  return symbol != '\0' &&
                 std::string_view("+-*/()0123456789").find(symbol) != std::string_view::npos
             ? symbol
             : '\0';
}

/// The two stacks of Dijkstra's shunting yard; an open bracket waits among the operators.
struct Stacks {
  std::vector<Rational> values;
  std::vector<char> operators;

  static int rank(char op) { return op == '(' ? 0 : op == '+' || op == '-' ? 1 : 2; }

  /// Applies waiting operators of this rank or above. Operators of one rank thus run from left to
  /// right.
  void reduce(int least_rank) {
    while (!operators.empty() && rank(operators.back()) >= least_rank) {
      const Rational right = values.back();
      values.pop_back();
      values.back() = apply(operators.back(), values.back(), right);
      operators.pop_back();
    }
  }
};

}  // namespace

Rational apply(char op, Rational a, Rational b) {
  if (a.den == 0 || b.den == 0) return kUndefined;
  const Wide an = a.num, ad = a.den, bn = b.num, bd = b.den;
  switch (op) {
    case '+':
      return lowest_terms(an * bd + bn * ad, ad * bd);
    case '-':
      return lowest_terms(an * bd - bn * ad, ad * bd);
    case '*':
      return lowest_terms(an * bn, ad * bd);
    case '/':
      return lowest_terms(an * bd, ad * bn);
    default:
      return kUndefined;
  }
}

Expression parse_expression(std::string_view text) {
  Expression result;
  Stacks stacks;
  bool want_operand = true;
  char previous = '(';  // the start of the text counts as the start of a bracket
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    if (text.empty()) break;
    const std::string_view rest = text;
    const char symbol = take_symbol(text);
    if (want_operand && is_digit(symbol)) {
      const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
      if (symbol == '0' && digits > 1) return result;
      int64_t literal = 0;
      const bool fits =
          std::from_chars(rest.data(), rest.data() + digits, literal).ec == std::errc();
      result.literals.push_back(fits ? literal : -1);
      stacks.values.push_back(fits ? Rational{literal, 1} : kUndefined);
      text = rest.substr(digits);
      want_operand = false;
    } else if (want_operand && symbol == '(') {
      stacks.operators.push_back('(');
    } else if (want_operand && symbol == '-' && previous == '(') {
      stacks.values.push_back({0, 1});  // "-x" reads as "0-x"; this 0 is no literal
      stacks.operators.push_back('-');
    } else if (!want_operand && symbol == ')') {
      stacks.reduce(1);
      if (stacks.operators.empty()) return result;
      stacks.operators.pop_back();
    } else if (!want_operand &&
               (symbol == '+' || symbol == '-' || symbol == '*' || symbol == '/')) {
      stacks.reduce(Stacks::rank(symbol));
      stacks.operators.push_back(symbol);
      want_operand = true;
    } else {
      return result;
    }
    previous = symbol;
  }
  if (want_operand) return result;
  stacks.reduce(1);
  result.parsed = stacks.operators.empty();  // else a bracket is still open
  result.value = stacks.values.back();
  return result;
}

Verdict check_expression(std::string_view text, const std::vector<int64_t>& numbers,
                         int64_t target) {
  const Expression expression = parse_expression(text);
  if (!expression.parsed) return Verdict::unparsable;
  const auto& used = expression.literals;
  if (!std::is_permutation(used.begin(), used.end(), numbers.begin(), numbers.end()))
    return Verdict::wrong_numbers;
  return expression.value == Rational{target, 1} ? Verdict::right : Verdict::wrong_value;
}

}  // namespace tiny_zero::countdown
