// Rewards of GRPO-Zero, nano-aha-moment and Open R1, worked by hand from their reward functions.
// In all cases of Countdown the prompt has opened <think>, and 1+2+3 is right.

#include <doctest/doctest.h>

#include <chrono>
#include <utility>
#include <vector>

#include "tasks/countdown/countdown.h"
#include "tasks/form_rewards.h"
#include "tasks/math/math.h"

using namespace tiny_zero;

namespace {

const Problem kPuzzle{"", "1,2,3=6"};

struct Case {
  std::string response;
  double reward;
  bool formatted, correct;
};

void check(FormReward rule, const std::vector<Case>& cases) {
  countdown::Countdown task;
  task.options.reward = rule;
  for (const auto& [response, reward, formatted, correct] : cases) {
    CAPTURE(response);
    const Grade grade = task.grade(kPuzzle, response, /*finished=*/true);
    CHECK(grade.reward == doctest::Approx(reward).epsilon(1e-9));
    CHECK(grade.formatted == formatted);
    CHECK(grade.correct == correct);
  }
}

}  // namespace

TEST_CASE("countdown: GRPO-Zero's reward, 0.1 x form + answer, the first answer counts") {
  check(FormReward::grpo_zero,
        {{" a</think>\n<answer>1+2+3</answer>", 0.1 + 1, true, true},
         {" a</think>\n<answer>1+2-3</answer>", 0.1, true, false},
         {" a</think> <answer>1+2+3</answer>", 0.1 * (0.1 + 0.5) + 1, false, true},
         {" a</think> <answer>1+2-3</answer>", 0.06, false, false},
         {" a <answer>1+2-3</answer>", 0.05, false, false},
         {" a</think> and so on", 0.01, false, false},
         {" a", 0, false, false},
         {" a <answer>1+2+3", 0, false, false},
         {" a</think>\n<answer></answer>", 0.1, true, false},
         {" a</think>\n<answer>1+2+3</answer>\n", 1.1, true, true},
         {" a</think>\n<answer>1+2+3</answer>\n\n", 1.06, false, true},
         {" a</think>\n<answer>1+2+3</answer> done", 1.06, false, true},
         {" a</think>\n<answer>1+2-3</answer> or <answer>1+2+3</answer>", 0.1, true, false},
         {" a</think>\n<answer>1+2+3</answer> or <answer>1+2-3</answer>", 1.1, true, true},
         {"<answer>1+2+3</answer></think>\n<answer>0</answer>", 1.1, true, true}});
}

TEST_CASE("countdown: nano-aha-moment's reward, form 1 or 0.5, equation 1 apart from it") {
  check(FormReward::nano_aha,
        {{" a</think>\n<answer>1+2+3</answer>", 1 + 1, true, true},
         {" a</think>\n<answer>1+2-3</answer>", 1, true, false},
         {" a</think>\n<answer>1+2+3=6</answer>", 0.5, true, false},
         {" a</think>\n<answer> </answer>", 0.5, true, false},
         {" a</think>\n<answer>six</answer>", 0.5, true, false},
         {" a</think>\n\n<answer>1+2+3</answer>", 0 + 1, false, true},
         {" a</think><answer>1+2+3</answer>", 0 + 1, false, true},
         {" a</think>\n<answer>1+2+3</answer>.", 0 + 1, false, true},
         {" a</think>\n<answer>1+2+3</answer>\n", 2, true, true},
         {" a</think> b</think>\n<answer>1+2+3</answer>", 0 + 1, false, true},
         {" a<think>b</think>\n<answer>1+2+3</answer>", 0 + 1, false, true},
         {" 1 < 2</think>\n<answer>1+2+3</answer>", 2, true, true},
         {" <answer>1+2-3</answer></think>\n<answer>1+2+3</answer>", 1, true, false},
         {" a</think>\n<answer>1+2\n+3</answer>", 1, true, false},  // no answer within one line
         {" <answer>\n</answer>a</think>\n<answer>1+2+3</answer>", 2, true, true},
         {" <answer>1+2+3</answer>", 0 + 1, false, true},
         {" a</think>\n", 0, false, false}});
}

TEST_CASE(
    "countdown: Open R1's reward, accuracy + form + a quarter for each tag that is there once") {
  check(FormReward::open_r1,
        {{"\na\n</think>\n<answer>\n1+2+3\n</answer>", 1 + 1 + 1, true, true},
         {"\na\n</think>\n<answer>\n1+2-3\n</answer>", 1 + 1, true, false},
         {" a\n</think>\n<answer>\n1+2+3\n</answer>", 1 + 0.75, false, true},
         {"\na</think>\n<answer>\n1+2+3\n</answer>", 1 + 0.75, false, true},
         {"\na\n</think>\n\n<answer>\n1+2+3\n</answer>", 1 + 1, false, true},
         {"\na\n</think>\n<answer>1+2+3\n</answer>", 1 + 0.75, false, true},
         {"\na\n</think>\n<answer>\n1+2+3</answer>", 1 + 0.75, false, true},
         {"\na\n</think>\n<answer>\n1+2+3\n</answer>\n</answer>", 1 + 1 + 0.75, true, true},
         {"\n</think>\n<answer>\n1+2+3\n</answer>", 1 + 1, false, true},  // no line for a thought
         {"\n\n</think>\n<answer>\n\n</answer>", 1 + 1, true, false},
         {"\n", 0.25, false, false},
         {"", 0, false, false}});
}

TEST_CASE("countdown: TinyZero's reward is the one that an answer earns without further flags") {
  check(FormReward::tinyzero, {{"<answer>1+2+3</answer>", 1, true, true},
                               {" a</think>\n<answer>1+2-3</answer>", 0.1, true, false},
                               {"<answer>1+2-3</answer> <answer>1+2+3</answer>", 1, true, true},
                               {" a</think>", 0, false, false}});
}

TEST_CASE("math: Open R1's three rewards") {
  math::Math task;
  task.options = {.prompt_template = math::Template::open_r1, .format_score = 1, .tag_score = 1};
  const auto reward = [&](const std::string& text) {
    return task.grade({"", "\\frac{1}{2}"}, text, /*finished=*/true).reward;
  };
  CHECK(reward("<think>\na\n</think>\n<answer>\n\\boxed{0.5}\n</answer>") == 3);
  CHECK(reward("<think>\na\n</think>\n<answer>\n\\boxed{5}\n</answer>") == 2);
  CHECK(reward("<think>\na\n</think>\n<answer>\n\\boxed{0.5}\n</answer>\nand so on") == 3);
  CHECK(reward("<think>\na\n</think>\n<answer>\n\\boxed{0.5}\n</answer> and so on") == 2);
  CHECK(reward("a\n</think>\n<answer>\n\\boxed{0.5}\n</answer>") == 1.75);
  CHECK(reward("so \\boxed{0.5}") == 1);
  CHECK(reward("") == 0);
  task.options.prompt_template = math::Template::orz;  // the prompt has opened <think>
  CHECK(reward("\na\n</think>\n<answer>\n\\boxed{0.5}\n</answer>") == 3);
  task.options.tag_score = 0;
  CHECK(reward("\na\n</think>\n<answer>\n\\boxed{0.5}\n</answer>") == 2);
}

TEST_CASE("prompts of nano-aha-moment and Open R1") {
  CHECK(nano_aha_prompt("44, 19, 35", "98") ==
        "<|im_start|>system\nYou are a helpful assistant. You first think about the reasoning "
        "process in the mind and then provide the user with the answer.<|im_end|>\n"
        "<|im_start|>user\nUsing the numbers [44, 19, 35], create an equation that equals 98. You "
        "can use basic arithmetic operations (+, -, *, /) and each number can only be used once. "
        "Show your work in <think> </think> tags. And return the final equation and answer in "
        "<answer> </answer> tags, for example <answer>(1 + 2) / (3 * 5)</answer>.<|im_end|>\n"
        "<|im_start|>assistant\nLet me solve this step by step.\n<think>");
  countdown::Countdown task;
  task.options.prompt_template = countdown::Template::nano;
  task.prepare(0);
  const std::string prompt = task.problem(Split::train, 0).prompt;
  CHECK(prompt.find("return the final equation and answer") != std::string::npos);
  CHECK(prompt.ends_with("<|im_start|>assistant\nLet me solve this step by step.\n<think>"));
  const std::string open_r1 = open_r1_prompt("What is 1+1?");
  CHECK(
      open_r1.ends_with("format: <think>\n...\n</think>\n<answer>\n...\n</answer><|im_end|>\n"
                        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"));
}

TEST_CASE("form rewards read any bytes, in time linear in their number") {
  std::vector<std::string> texts{std::string("\0<answer>\xff\0</think>\n<answer>\x80", 27)};
  for (const std::string part :
       {"<answer>", "<answer>\n", "</answer>", "\n</answer>", "</think>\n",
        "\n</think>\n<answer>\n", "<think>\n", "</think>\n<answer>", "\n"}) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    for (const std::string end : {"", "</answer>", "\n</answer>x"}) texts.push_back(text + end);
  }
  const auto start = std::chrono::steady_clock::now();
  for (const auto& text : texts) {
    for (size_t rule = 0; rule < choices(FormReward{}).size(); ++rule) {
      const Form form = read_form(static_cast<FormReward>(rule), text);
      CHECK((form.points >= 0 && form.points <= 2));
    }
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));  // takes about 0.2
}
