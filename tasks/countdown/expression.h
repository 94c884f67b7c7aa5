#pragma once
// The checker of Countdown: its own parser and exact rationals. Nothing is ever executed, so it has
// none of the holes of checkers that run the answer as a program (2**10, 7//2, 1.5*4, 9**9**9)
// [T26].

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tiny_zero::countdown {

/// An exact fraction in lowest terms, den > 0. den == 0 stands for "undefined": a division by zero,
/// or a value that does not fit 64 bits. Undefined operands give undefined results, and no target
/// is undefined.
struct Rational {
  int64_t num = 0;
  int64_t den = 1;
  bool operator==(const Rational&) const = default;
};

/// a op b for op in "+-*/"; undefined on overflow, never wrapped.
Rational apply(char op, Rational a, Rational b);

struct Expression {
  bool parsed = false;            // false: not an expression; the rest then means nothing
  Rational value;                 // undefined if a division by zero or an overflow was met
  std::vector<int64_t> literals;  // from left to right; -1 for one that does not fit 64 bits
};

/// Reads + - * / ( ) and unsigned integers, and × ÷ · − in UTF-8 for models that typeset. White
/// space may stand between symbols. A minus sign may lead the expression or a bracket ("-3+5",
/// "2*(-3+5)"), but not follow an operator; no positive target needs it. Not read: "1 2", "2(3)",
/// "07", "1.5", "**", "//", "=". Takes any bytes and any depth of brackets in linear time and
/// memory, without recursion, and never throws.
Expression parse_expression(std::string_view text);

enum class Verdict { unparsable, wrong_numbers, wrong_value, right };

/// Right if `text` is an expression, uses each of `numbers` exactly once and no other, and equals
/// `target` exactly.
Verdict check_expression(std::string_view text, const std::vector<int64_t>& numbers,
                         int64_t target);

}  // namespace tiny_zero::countdown
