#include "tasks/math/extract.h"

#include <algorithm>

namespace tiny_zero::math {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr std::string_view kSpace = " \t\r\n", kDigits = "0123456789";

std::optional<std::string_view> trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == kNone) return std::nullopt;
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

/// Where the last \boxed or \fbox begins, and behind it; kNone if there is none.
std::pair<size_t, size_t> find_last_box(std::string_view text) {
  const size_t boxed = text.rfind("\\boxed"), fbox = text.rfind("\\fbox");
  if (fbox != kNone && (boxed == kNone || fbox > boxed)) return {fbox, fbox + 5};
  return {boxed, boxed == kNone ? kNone : boxed + 6};
}

}  // namespace

std::optional<std::string_view> extract_boxed(std::string_view text) {
  const auto [start, end] = find_last_box(text);
  if (start == kNone) return std::nullopt;
  const size_t open = text.find_first_not_of(kSpace, end);
  if (open == kNone) return std::nullopt;
  if (text[open] != '{') {  // \boxed 5
    return trimmed(text.substr(open, std::min(text.find_first_of(" \t\r\n$", open), text.size()) - open));
  }
  int64_t depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;  // \{ and \} are no braces of the box
    } else if (text[at] == '{') {
      ++depth;
    } else if (text[at] == '}' && --depth == 0) {
      return trimmed(text.substr(open + 1, at - open - 1));
    }
  }
  return std::nullopt;
}

std::optional<std::string_view> extract_last_number(std::string_view text) {
  const size_t last = text.find_last_of(kDigits);
  if (last == kNone) return std::nullopt;
  const size_t before = text.find_last_not_of("0123456789.,", last);
  size_t first = before == kNone ? 0 : before + 1;
  while (text[first] == ',' || (text[first] == '.' && kDigits.find(text[first + 1]) == kNone)) ++first;
  if (first > 0 && text[first - 1] == '-') --first;
  return text.substr(first, last + 1 - first);
}

std::optional<std::string_view> extract_tagged(std::string_view text) {
  constexpr std::string_view kOpen = "<answer>", kClose = "</answer>";
  const size_t close = text.rfind(kClose);
  if (close == kNone) return std::nullopt;
  const size_t open = text.substr(0, close).rfind(kOpen);
  if (open == kNone) return std::nullopt;
  return trimmed(text.substr(open + kOpen.size(), close - open - kOpen.size()));
}

std::optional<std::string_view> extract_answer(std::string_view response) {
  const auto tagged = extract_tagged(response);
  if (tagged && find_last_box(*tagged).first == kNone) return tagged;
  return extract_boxed(tagged ? *tagged : response);
}

}  // namespace tiny_zero::math
