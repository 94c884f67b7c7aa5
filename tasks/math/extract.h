#pragma once
// Finds the final answer in a model's response.

#include <optional>
#include <string_view>

namespace tiny_zero::math {

/// What the last \boxed{...}, \fbox{...} or "\boxed 5" holds, braces balanced. Nothing if there is none, or if the last
/// one is empty or cut off: an earlier one is not what the response ends with.
std::optional<std::string_view> extract_boxed(std::string_view text);

/// The last number, with its sign, thousands commas and decimals, as GSM8K is graded: "so $1,234.50." gives "1,234.50".
std::optional<std::string_view> extract_last_number(std::string_view text);

/// What the last complete <answer>...</answer> holds, without white space around it [T27]; nothing if that is empty.
std::optional<std::string_view> extract_tagged(std::string_view text);

/// The answer of a response: what the last <answer> holds or, if there is none, the whole response; of that the last
/// box. Within tags the box may be missing, but not be empty or cut off.
std::optional<std::string_view> extract_answer(std::string_view response);

}  // namespace tiny_zero::math
