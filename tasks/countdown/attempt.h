#pragma once
// An attempt is a chain of equations that uses up the numbers, such as "2*5=10,10*7=70". Random
// attempts make the problems, ordered ones the searches of the base text; those parsed from a
// response show how reliable a model's arithmetic and checks are.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tasks/countdown/expression.h"
#include "tiny_zero/random.h"

namespace tiny_zero::countdown {

constexpr std::string_view kOperators = "+-*/";

struct Equation {
  int64_t a = 0;
  char op = '+';
  int64_t b = 0;
  int64_t result = 0;  // as written, which in a model's text need not be true
  bool right() const { return apply(op, {a, 1}, {b, 1}) == Rational{result, 1}; }
};

struct Attempt {
  std::vector<Equation> equations;
  Rational value;          // of the expression, exact
  std::string expression;  // "(6-1)+6": brackets around every part but numbers
  std::string tree;        // the same with the operands of + and * sorted: equal for equal trees
  std::string text() const;
};

/// The value of a random attempt. Each equation takes two of the values left, the larger first, and
/// an operator, uniformly among the choices whose result is an integer in [0, max_value], until one
/// value is left. The numbers must lie in [1, max_value].
int64_t random_target(std::vector<int64_t> numbers, int64_t max_value, Random& random);

/// The attempt after `code` in a fixed order of all whose results are such integers; moves `code`
/// there. Start with -1; nothing after the last. A code has a digit for each equation, the last
/// one's lowest: 4 * pair + operator. Pairs are by position, (0,1), (0,2), (1,2), (0,3), ...;
/// operators are + - * /. A result takes the place of the larger value. Trees may repeat: with
/// equal values, or two equations in either order. At most 11 numbers, so that codes fit 64 bits.
std::optional<Attempt> next_attempt(const std::vector<int64_t>& numbers, int64_t max_value,
                                    int64_t& code);

/// The attempt that these equations make of `numbers`: each takes two values that are left and puts
/// its written result back. Nothing if a value is not there or more than one is left at the end. A
/// false equation is no obstacle: `value` is computed from the expression.
std::optional<Attempt> replay(const std::vector<int64_t>& numbers,
                              const std::vector<Equation>& equations);

/// Every `a op b=c` of unsigned integers without white space, from left to right; a part of a
/// longer sum does not count.
std::vector<Equation> find_equations(std::string_view text);

}  // namespace tiny_zero::countdown
