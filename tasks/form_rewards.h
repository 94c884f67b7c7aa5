#pragma once
// What published trainers pay for the form of a response, and which of its answers each of them
// grades. Regular expressions there, searches in linear time here; any bytes will do.

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "tiny_zero/settings/settings.h"

namespace tiny_zero {

enum class FormReward { tinyzero, grpo_zero, nano_aha, open_r1 };
constexpr auto choices(FormReward) {
  return std::array{"tinyzero", "grpo-zero", "nano-aha", "open-r1"};
}

/// What a rule sees in a response.
struct Form {
  double points = 0.0;                     // reward of the form, whatever the answer
  bool whole = false;                      // it is the form that the rule wants
  std::optional<std::string_view> answer;  // what it grades
};

/// A response to a prompt that ends with <think>, as each trainer reads it:
///   tinyzero   nothing for the form; the last answer is graded
///   grpo-zero  0.1 x (1 if "</think>\n<answer>" is there and </answer> ends the response; else 0.1
///              for </think> and 0.5 for an answer); the first answer is graded
///   nano-aha   1 if the first tag <think> or </think> is "</think>\n<answer>" and </answer> ends
///              the response, but 0.5 if the answer is empty or holds more than digits,
///              + - * / ( ) . and white space; the first answer within one line is graded
///   open-r1    open_r1_form() and tag_count(); the last answer is graded
/// [GRPO-Zero, countdown_task.py] [nano-aha-moment, nano_r1_script.py] [Open R1, rewards.py]
Form read_form(FormReward rule, std::string_view response);

/// Whether the text opens with <think>, each tag of <think>, </think>, <answer> and </answer> has a
/// line of its own, and none stands between </think> and <answer> [Open R1, format_reward].
/// @param text  from <think> on, even if that is the end of the prompt
bool open_r1_form(std::string_view text);

/// A quarter for each of "<think>\n", "\n</think>\n", "\n<answer>\n" and "\n</answer>" that stands
/// in the text exactly once [Open R1, tag_count_reward].   @param text  as for open_r1_form()
double tag_count(std::string_view text);

/// A message to a chat model of Qwen and the start of its answer.
std::string chat_prompt(const std::string& system, const std::string& user,
                        const std::string& start = "");
/// The system message of TinyZero's and nano-aha-moment's chat prompts.
extern const std::string kThinkFirst;
/// @param numbers  "44, 19, 35"   [nano-aha-moment, PROMPT_TEMPLATE]
std::string nano_aha_prompt(const std::string& numbers, const std::string& target);
/// [Open R1, system_prompt of recipes/*/grpo]
std::string open_r1_prompt(const std::string& problem);

}  // namespace tiny_zero
