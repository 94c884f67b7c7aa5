#pragma once
// Splits the LaTeX of an answer into tokens and drops what says nothing about its value.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tiny_zero::math {

/// end         behind the last token
/// number      text: digits; the value is text * 10^scale
/// letter      a variable: one letter, or a command such as \theta
/// word        two or more letters without \text: a product or a word
/// quoted      a word of \text{...}
/// function    sin, log, ...
/// command     frac, sqrt, ...
/// mark        operators, brackets, separators
/// layout, unit, multiplier   known names only, no tokens: dropped; dropped behind a value; no unit, though in \text
struct Token {
  enum Type { end, number, letter, word, quoted, function, command, mark, layout, unit, multiplier };
  Type type = end;
  std::string text = {};
  int64_t scale = 0;
  bool is(std::string_view mark_text) const { return type == mark && text == mark_text; }
};

/// The tokens with an `end` behind them, or nothing if a command or byte is unknown.
std::optional<std::vector<Token>> tokenize(std::string_view text);

}  // namespace tiny_zero::math
