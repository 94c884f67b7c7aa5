#pragma once
// Reads the LaTeX of a final answer into an expression tree. Nothing is executed or expanded; macros are not known.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tiny_zero::math {

enum class Kind {
  number,    // name: digits, perhaps with a minus sign; times 10^scale
  symbol,    // name: a variable as written, a based number such as 12_3, or "i", "e", "pi", "infty", "pm", "mp"
  text,      // name: lower-case letters and digits; args: {the same letters as a product}, where that can be meant
  sum,       // args
  product,   // args; -x is (-1) x, and \pm x is pm x
  power,     // args: {base, exponent}; a / b is a b^(-1), and roots are powers
  call,      // args; name: sin, ln, abs, factorial, ... or "unknown f" for a function that the problem defines
  tuple,     // args in order; name: the brackets of a point or interval such as "[)", the operators of a ratio or union
             // such as "::" or "U", "matrix" or "row"
  set,       // args without order: {1, 2} with the name "{}", or 1, 2 without brackets with its commas as the name
  relation,  // args; name: the operators between them: = < l(<=) !(not equal) e(in) ~(about)
};

struct Node {
  Kind kind = Kind::symbol;
  std::string name;
  std::vector<Node> args = {};
  int64_t scale = 0;
};

/// The tree of an answer, or nothing if it is not one. Thousands separators, currency, percent and degree signs (but
/// for those in a sine's argument, which become pi/180), units after a value and layout commands leave no trace in it.
/// x > 5 and 1 <= x < 2 become x \in (5, infinity) and x \in [1, 2).
/// Never throws; answers beyond 4,096 bytes or 48 levels of nesting are not read.
std::optional<Node> parse_answer(std::string_view text);

/// Whether `test` holds for the node or one below it.
template <class Test>
bool any_node(const Node& node, const Test& test) {
  if (test(node)) return true;
  for (const Node& arg : node.args) {
    if (any_node(arg, test)) return true;
  }
  return false;
}

/// Whether a variable occurs in it.
bool has_variable(const Node& node);

}  // namespace tiny_zero::math
