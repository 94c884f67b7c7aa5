// Departure: \d and \s are those of ASCII, in Python also those of Unicode.
#include "tasks/form_rewards.h"

#include <algorithm>
#include <stdexcept>

#include "tasks/last_answer.h"

namespace tiny_zero {
namespace {

constexpr size_t kNone = std::string_view::npos;
constexpr std::string_view kOpen = "<answer>", kClose = "</answer>", kThought = "</think>",
                           kMiddle = "</think>\n<answer>", kSpace = " \t\n\r\f\v";

/// The first answer, or the first that stands within one line: "." in Python is no line break.
std::optional<std::string_view> first_answer(std::string_view text, bool in_one_line) {
  for (size_t start = 0, end = 0; start < text.size(); start = end + 1) {
    end = in_one_line ? std::min(text.find('\n', start), text.size()) : text.size();
    const std::string_view line = text.substr(start, end - start);
    const size_t open = std::min(line.find(kOpen), line.size()), close = line.find(kClose, open);
    if (close != kNone) return line.substr(open + kOpen.size(), close - open - kOpen.size());
  }
  return std::nullopt;
}

/// What stands between "</think>\n<answer>", at `middle`, and </answer> at the end of the response;
/// Python's $ allows one line break after it.
std::optional<std::string_view> answer_at(size_t middle, std::string_view response) {
  std::string_view rest = response.substr(std::min(middle, response.size()));
  if (!rest.starts_with(kMiddle)) return std::nullopt;
  rest.remove_prefix(kMiddle.size());
  if (rest.ends_with('\n')) rest.remove_suffix(1);
  if (!rest.ends_with(kClose)) return std::nullopt;
  return rest.substr(0, rest.size() - kClose.size());
}

bool once(std::string_view text, std::string_view part) {
  const size_t at = text.find(part);
  return at != kNone && text.find(part, at + part.size()) == kNone;
}

}  // namespace

Form read_form(FormReward rule, std::string_view response) {
  const size_t thought = response.find(kThought);
  switch (rule) {
    case FormReward::tinyzero:
      return {0.0, false, last_answer(response)};
    case FormReward::grpo_zero: {
      const bool whole = answer_at(response.find(kMiddle), response).has_value();
      const auto answer = first_answer(response, /*in_one_line=*/false);
      const double parts = 0.1 * (thought != kNone) + 0.5 * answer.has_value();
      return {0.1 * (whole ? 1.0 : parts), whole, answer};
    }
    case FormReward::nano_aha: {
      const auto inside = answer_at(thought, response);
      const bool whole = inside && response.substr(0, thought).find("<think>") == kNone;
      const bool plain = whole && inside->find_first_not_of(kSpace) != kNone &&
                         inside->find_first_not_of("0123456789+-*/(). \t\n\r\f\v") == kNone;
      return {0.5 * whole + 0.5 * plain, whole, first_answer(response, /*in_one_line=*/true)};
    }
    case FormReward::open_r1: {
      const std::string text = "<think>" + std::string(response);
      const bool whole = open_r1_form(text);
      return {1.0 * whole + tag_count(text), whole, last_answer(response)};
    }
  }
  throw std::logic_error("read_form: unknown reward");
}

bool open_r1_form(std::string_view text) {
  constexpr std::string_view kStart = "<think>\n", kLines = "\n</think>\n<answer>\n";
  const size_t lines = text.find(kLines, kStart.size());
  if (!text.starts_with(kStart) || lines == kNone) return false;
  // Their $ under re.MULTILINE: the last tag ends a line, not the text.
  const std::string_view rest = text.substr(lines + kLines.size());
  return rest.find("\n</answer>\n") != kNone || rest.ends_with("\n</answer>");
}

double tag_count(std::string_view text) {
  return 0.25 * once(text, "<think>\n") + 0.25 * once(text, "\n</think>\n") +
         0.25 * once(text, "\n<answer>\n") + 0.25 * once(text, "\n</answer>");
}

std::string chat_prompt(const std::string& system, const std::string& user,
                        const std::string& start) {
  return "<|im_start|>system\n" + system + "<|im_end|>\n<|im_start|>user\n" + user +
         "<|im_end|>\n<|im_start|>assistant\n" + start;
}

const std::string kThinkFirst =
    "You are a helpful assistant. You first think about the reasoning process in the mind and then "
    "provide the user with the answer.";

std::string nano_aha_prompt(const std::string& numbers, const std::string& target) {
  const std::string task =
      "Using the numbers [" + numbers + "], create an equation that equals " + target +
      ". You can use basic arithmetic operations (+, -, *, /) and each number can only be used "
      "once. Show your work in <think> </think> tags. And return the final equation and answer in "
      "<answer> </answer> tags, for example <answer>(1 + 2) / (3 * 5)</answer>.";
  return chat_prompt(kThinkFirst, task, "Let me solve this step by step.\n<think>");
}

std::string open_r1_prompt(const std::string& problem) {
  const std::string system =
      "You are a helpful AI Assistant that provides well-reasoned and detailed responses. You "
      "first think about the reasoning process as an internal monologue and then provide the user "
      "with the answer. Respond in the following format: <think>\n...\n</think>\n<answer>\n...\n"
      "</answer>";
  return chat_prompt(system, problem);
}

}  // namespace tiny_zero
