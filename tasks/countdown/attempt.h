#pragma once
// An attempt is a chain of equations that uses up the numbers, such as "2*5=10,10*7=70". Random
// attempts make the problems and the base text; those parsed from a response show how reliable a
// model's arithmetic and checks are.

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

/// A random attempt. Each equation takes two of the values left, the larger first, and an operator,
/// uniformly among the choices whose result is an integer in [0, max_value], until one value is
/// left. The numbers must lie in [1, max_value].
Attempt random_attempt(const std::vector<int64_t>& numbers, int64_t max_value, Random& random);

/// The attempts that random_attempt() may give stand in a fixed order, in which a search can go on
/// without remembering what it tried. A code from 0 on names for each equation, the last one's
/// turning fastest, a pair of the values left, by position, and an operator in the order + - * /.
/// Most codes make no attempt: moves `code` on to the next that does and returns its attempt;
/// nothing after the last. -1 stands before the first. With equal numbers, some have the same tree.
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
