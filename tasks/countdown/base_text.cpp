// The base text of the tiny model, and its tokenizer. A base model that can neither guess nor check
// gives reinforcement learning nothing to amplify. These documents do both; settings say how often.
#include "tasks/byte_tokenizer.h"
#include "tasks/countdown/countdown.h"

namespace tiny_zero::countdown {
namespace {

// There are no merges: a token is a character or a word.
constexpr std::string_view kCharacters = "0123456789+-*/()=,\n ";
constexpr std::string_view kWords[] = {
    "use ",  " once each to make ", "<think>", "</think>", "<answer>", "</answer>",
    " try ", " wait, try ",         " want ",  " no.",     " yes.",    "<|endoftext|>"};

/// The numbers in any order, any operators between them, as "8*3-8".
std::string guess(std::vector<int64_t> numbers, Random& random) {
  std::string text;
  while (!numbers.empty()) {
    const auto at = numbers.begin() + random.between(0, std::ssize(numbers) - 1);
    if (!text.empty()) text += kOperators[static_cast<size_t>(random.between(0, 3))];
    text += std::to_string(*at);
    numbers.erase(at);
  }
  return text;
}

}  // namespace

Document Countdown::document(int64_t index) const {
  const Options& o = options;
  if (o.prompt_template != Template::short_form) {
    throw std::invalid_argument(
        "countdown: the base text is written in the short form; set countdown-template = short");
  }
  Random random(seed_, kDocuments, static_cast<uint64_t>(index));
  const Puzzle puzzle = generate(Split::train, random);
  const auto document = [&](const std::string& thoughts, const std::string& answer) -> Document {
    return {prompt(puzzle), thoughts + "</think><answer>" + answer + "</answer>"};
  };
  if (!random.chance(o.search_share)) return document("", guess(puzzle.numbers, random));
  std::string thoughts, answer;
  std::set<std::string> seen;
  int64_t code = -1;
  while (const auto attempt = next_attempt(puzzle.numbers, o.value_max, code)) {
    if (!seen.insert(attempt->tree).second) continue;
    const bool right = attempt->value == Rational{puzzle.target, 1},
               accepted = right != random.chance(o.misjudged);
    thoughts += (thoughts.empty() ? " try " : " wait, try ") + attempt->text() + " want " +
                std::to_string(puzzle.target) + (accepted ? " yes." : " no.");
    answer = attempt->expression;
    if (accepted || std::ssize(seen) == o.max_attempts || !random.chance(o.go_on)) break;
  }
  return document(thoughts, answer);
}

std::string Countdown::tokenizer_json() const { return byte_tokenizer_json(kCharacters, kWords); }

}  // namespace tiny_zero::countdown
