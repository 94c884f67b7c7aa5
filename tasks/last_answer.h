#pragma once
// Where every task looks for the answer of a response.

#include <optional>
#include <string_view>

namespace tiny_zero {

/// What stands in the last complete <answer>...</answer> of a response; nothing if no pair is
/// complete [T27]. Of nested pairs it is the innermost. Pass the response alone: the prompt may
/// quote an example between the same tags.
inline std::optional<std::string_view> last_answer(std::string_view response) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  std::optional<std::string_view> answer;
  size_t start = std::string_view::npos;
  for (size_t at = response.find('<'); at != std::string_view::npos;
       at = response.find('<', at + 1)) {
    if (response.substr(at).starts_with(kOpen)) start = at + kOpen.size();
    if (!response.substr(at).starts_with(kClose) || start == std::string_view::npos) continue;
    answer = response.substr(start, at - start);
    start = std::string_view::npos;  // a second close ends nothing
  }
  return answer;
}

}  // namespace tiny_zero
