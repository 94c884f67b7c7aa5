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

/// A failing attempt whose tree is not in `seen` and is then added; nothing after 1,000 tries.
std::optional<Attempt> random_failure(const Puzzle& puzzle, const Options& options, Random& random,
                                      std::set<std::string>& seen) {
  for (int tries = 0; tries < 1000; ++tries) {
    Attempt attempt = random_attempt(puzzle.numbers, options.value_max, random);
    if (attempt.value != Rational{puzzle.target, 1} && seen.insert(attempt.tree).second)
      return attempt;
  }
  return std::nullopt;
}

}  // namespace

Document Countdown::document(int64_t index) const {
  const Options& o = options;
  if (o.prompt_template != Template::short_form) {
    throw std::invalid_argument(
        "countdown: the base text is written in the short form; set countdown-template = short");
  }
  Random random(seed_, kDocuments, static_cast<uint64_t>(index));
  Attempt solution;
  const Puzzle puzzle = generate(Split::train, random, &solution);
  const auto document = [&](const std::string& thoughts, const Attempt& last) -> Document {
    return {prompt(puzzle), thoughts + "</think><answer>" + last.expression + "</answer>"};
  };
  std::set<std::string> seen;
  if (!random.chance(o.search_share)) {
    const bool right = random.chance(o.guess_right);
    const Attempt guess =
        right ? solution : random_failure(puzzle, o, random, seen).value_or(solution);
    return document(" try " + guess.text(), guess);
  }
  const std::string want = " want " + std::to_string(puzzle.target);
  const auto judged = [&](const Attempt& attempt, bool right) {
    return attempt.text() + want + (right ? " yes." : " no.");
  };
  const bool solved = random.chance(o.solved);
  std::string thoughts;
  Attempt last = solution;
  for (int64_t failures = 0; failures < o.max_attempts - solved; ++failures) {
    if (failures > 0 && !random.chance(o.go_on)) break;
    const auto failure = random_failure(puzzle, o, random, seen);
    if (!failure) break;
    const bool accepted = random.chance(o.misjudged);
    thoughts += (failures == 0 ? " try " : " wait, try ") + judged(*failure, accepted);
    last = *failure;
    if (accepted) return document(thoughts, last);
  }
  if (!solved) return document(thoughts, last);
  const bool missed = random.chance(o.misjudged);
  return document(thoughts + " wait, try " + judged(solution, !missed), missed ? last : solution);
}

std::string Countdown::tokenizer_json() const { return byte_tokenizer_json(kCharacters, kWords); }

}  // namespace tiny_zero::countdown
