#pragma once
// The grader of MATH: finds the final answer of a response, and decides whether it is the same
// mathematical object as the gold answer. README.md lists what counts as the same. Pure,
// deterministic and silent; never throws, never executes anything.

#include <optional>
#include <string_view>

namespace tiny_zero::math {

/// The content of the last \boxed{...}, \fbox{...} or "\boxed 5", braces balanced. Nothing if there
/// is none, or if the last one is empty or truncated: an earlier one is not the final answer.
std::optional<std::string_view> extract_boxed(std::string_view text);

/// The last number, with its sign, thousands commas and decimals, as GSM8K is graded:
/// "so $1,234.50." gives "1,234.50".
std::optional<std::string_view> extract_last_number(std::string_view text);

/// last_answer() without white space around it [T27]; nothing if that is empty.
std::optional<std::string_view> extract_tagged(std::string_view text);

/// The answer of a response: the last box in its last <answer>, or without a box all of that;
/// without tags the last box. An empty or truncated box is no answer.
std::optional<std::string_view> extract_answer(std::string_view response);

struct Verdict {
  bool equal = false;
  // "equal", "different", "the right answer cannot be read" or "the answer cannot be read"
  std::string_view reason;
};

/// Compares a model's answer with the gold answer. What cannot be read equals nothing. Time and
/// memory are bounded: answers beyond 1,024 bytes are not read, and a comparison that takes too
/// long yields "different". Asymmetric in one respect: an answer "a+b=5" gives the value asked for,
/// 5, but a gold answer "a+b=5" is an equation.
Verdict compare(std::string_view gold, std::string_view answer);

inline bool equivalent(std::string_view gold, std::string_view answer) {
  return compare(gold, answer).equal;
}

/// Whether the grader can judge by this gold answer: it is read and equals itself [T28].
inline bool readable(std::string_view gold) { return equivalent(gold, gold); }

}  // namespace tiny_zero::math
