#include <algorithm>

#include "tasks/last_answer.h"
#include "tasks/math/grader.h"

namespace tiny_zero::math {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr std::string_view kSpace = " \t\r\n", kDigits = "0123456789";

std::optional<std::string_view> trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == kNone) return std::nullopt;
  return text.substr(first, text.find_last_not_of(kSpace) + 1 - first);
}

/// What follows the last \boxed or \fbox; nothing if there is none.
std::optional<std::string_view> after_last_box(std::string_view text) {
  const size_t boxed = text.rfind("\\boxed"), fbox = text.rfind("\\fbox");
  if (boxed == kNone && fbox == kNone) return std::nullopt;
  return fbox == kNone || (boxed != kNone && boxed > fbox) ? text.substr(boxed + 6)
                                                           : text.substr(fbox + 5);
}

}  // namespace

std::optional<std::string_view> extract_boxed(std::string_view text) {
  const auto box = trimmed(after_last_box(text).value_or(""));
  if (!box) return std::nullopt;
  if (box->front() != '{')
    return trimmed(box->substr(0, box->find_first_of(" \t\r\n$")));  // \boxed 5
  int64_t depth = 0;
  for (size_t at = 0; at < box->size(); ++at) {
    const char c = (*box)[at];
    depth += (c == '{') - (c == '}');
    if (depth == 0) return trimmed(box->substr(1, at - 1));
    at += c == '\\';  // \{ and \} are no braces of the box
  }
  return std::nullopt;
}

std::optional<std::string_view> extract_last_number(std::string_view text) {
  const size_t last = text.find_last_of(kDigits);
  if (last == kNone) return std::nullopt;
  size_t first = text.find_last_not_of("0123456789.,", last) + 1;  // npos + 1 is 0
  while (text[first] == ',' || (text[first] == '.' && kDigits.find(text[first + 1]) == kNone))
    ++first;
  first -= first > 0 && text[first - 1] == '-';
  return text.substr(first, last + 1 - first);
}

std::optional<std::string_view> extract_tagged(std::string_view text) {
  return trimmed(last_answer(text).value_or(""));
}

std::optional<std::string_view> extract_answer(std::string_view response) {
  const auto tagged = extract_tagged(response);
  return tagged && !after_last_box(*tagged) ? tagged : extract_boxed(tagged.value_or(response));
}

}  // namespace tiny_zero::math
