#pragma once
// The tree of an answer, parsed from LaTeX, and its value at random points. Nothing is ever
// executed or expanded.

#include <array>
#include <complex>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tiny_zero::math {

/// number    name: digits, perhaps with a minus sign; times 10^scale
/// symbol    name: a variable as written, a based number such as "12_3", or "i", "e", "pi",
///           "infty", "pm", "mp"
/// text      name: letters and digits in lower case;
///           args: {the same letters as a product} where that may be meant
/// sum       of args
/// product   of args; -x is (-1) x, and \pm x is pm x
/// power     args: {base, exponent}; a / b is a b^(-1), and roots are powers
/// call      of args; name: sin, ln, abs, factorial, ..., or "unknown f" for a function that the
///           problem defines
/// tuple     args in order; name: the brackets of a point or interval such as "[)", the operators
///           of a ratio or union such as "::" or "U", "matrix" or "row"
/// set       args without order; name: "{}", or the commas of a list without brackets
/// relation  between args; name: its operators, each one of = < l (<=) ! (not equal) e (in)
///           ~ (about)
enum class Kind { number, symbol, text, sum, product, power, call, tuple, set, relation };

struct Node {
  Kind kind = Kind::symbol;
  std::string name;
  std::vector<Node> args = {};
  int64_t scale = 0;
};

/// The tree of an answer, or nothing if it is not one. Thousands separators, currency, percent and
/// degree signs (except in a sine's argument, where they become pi/180), units after a value and
/// layout commands leave no trace in it. a > b becomes b < a. Never throws; answers beyond 1,024
/// bytes or 40 levels of nesting are not parsed.
std::optional<Node> parse_answer(std::string_view text);

/// Whether `test` holds for the node or one of its descendants.
template <class Test>
bool any_node(const Node& node, const Test& test) {
  if (test(node)) return true;
  for (const Node& arg : node.args) {
    if (any_node(arg, test)) return true;
  }
  return false;
}

/// Whether a variable occurs in the tree.
bool has_variable(const Node& node);

using Complex = std::complex<long double>;

/// A value at a random point, the same in every run, in two kinds of arithmetic.
/// residues     modulo two 61-bit primes, where variables, pi, e and infinity are random residues
///              and i is a root of -1. If `exact`, the expression has only + - * /, integer powers,
///              factorials and binomials: two of these that differ as rational functions agree with
///              a probability below 1e-30.
/// approximate  in long double, where variables are random reals of [0.3, 3.3], from point 2 on of
///              [2.4, 26.4], and negative at odd points if `signs`. Not finite where the value is
///              undefined, beyond long double, or depends on a decimal of more than 12 digits:
///              that is a rounded value, which equals no irrational number.
struct Value {
  bool exact = false;
  std::array<uint64_t, 2> residues = {};
  Complex approximate = std::numeric_limits<long double>::quiet_NaN();
};

/// What a comparison may still cost, in visited nodes; below 0, every value is undefined.
using Work = int64_t;

Value evaluate(const Node& node, int point, bool signs, Work& work);

}  // namespace tiny_zero::math
