#pragma once
// Reads the LaTeX of a final answer into an expression tree. Nothing is executed or expanded; macros are not known.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tiny_zero::math {

enum class Kind {
  number,      // name: digits, scale: times 10^scale
  symbol,      // name: a variable as written, or "i", "e", "pi", "infty"
  text,        // name: lower-case letters and digits; args: {the same letters as a product}, where that can be meant
  sum,         // args
  product,     // args
  negate,      // args: {x}
  reciprocal,  // args: {x}; a / b is the product of a and reciprocal(b)
  power,       // args: {base, exponent}; roots are powers
  call,        // name: sin, ln, abs, factorial, ... or the f of an unknown f(x); args
  plus_minus,  // name: "+" for \pm, "-" for \mp; args: {x}
  tuple,       // name: its brackets, such as "[)"; a point, a vector or an interval
  set,         // args, in braces
  list,        // args, separated by commas or "and" without brackets
  matrix,      // args: rows, each a tuple
  ratio,       // args of a : b : c
  join,        // name: cup, cap or setminus; args
  relation,    // args; name: the operators between them: '=' '<' 'l' (<=) '>' 'g' (>=) '!' (not equal) 'e' (in) '~'
};

struct Node {
  Kind kind = Kind::symbol;
  std::string name;
  std::vector<Node> args;
  int64_t scale = 0;
};

/// The tree of an answer, or nothing if it is not one. Thousands separators, currency, percent and degree signs (but
/// for those in a sine's argument, which become pi/180), units after a value and layout commands leave no trace in it.
/// Never throws; answers beyond 4,096 bytes or 48 levels of nesting are not read.
std::optional<Node> parse_answer(std::string_view text);

}  // namespace tiny_zero::math
