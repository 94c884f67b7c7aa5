// Does a response return to the problem after a failed check, and how reliable are its checks?
#include <algorithm>
#include <cctype>

#include "tasks/countdown/countdown.h"

namespace tiny_zero::countdown {
namespace {

/// Where the first of the phrases begins, at or after `from` and at the start of a word, or npos.
size_t find_phrase(std::string_view text, size_t from,
                   const std::vector<std::string_view>& phrases) {
  size_t first = std::string_view::npos;
  for (const auto phrase : phrases) {
    size_t at = text.find(phrase, from);
    while (at != std::string_view::npos && at > 0 &&
           std::isalpha(static_cast<unsigned char>(text[at - 1]))) {
      at = text.find(phrase, at + 1);
    }
    first = std::min(first, at);
  }
  return first;
}

}  // namespace

bool reflects(std::string_view response) {
  static const std::vector<std::string_view> kFailed = {
      "no.",       "no,",       "not ",     "doesn't work", "doesn’t work", "didn't work",
      "wrong",     "incorrect", "mistake",  "too high",     "too low",      "too big",
      "too large", "too small", "too much", "wait",         "hmm"};
  static const std::vector<std::string_view> kAnew = {
      "try",        "again",     "instead", "another", "alternatively", "what if",
      "what about", "how about", "let me",  "let's",   "let’s"};
  std::string text(response);
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  size_t at = text.find('=');
  if (at != std::string::npos) at = find_phrase(text, at, kFailed);
  if (at != std::string::npos) at = find_phrase(text, at, kAnew);
  return at != std::string::npos && text.find('=', at) != std::string::npos;
}

std::vector<Tally> Countdown::diagnose(const Problem& problem, std::string_view response) const {
  constexpr std::string_view kTry = " try ";
  const Puzzle puzzle = read_gold(problem.gold);
  const Grade verdict = grade(problem, response, /*finished=*/true);
  Tally equations{"equations right"}, yes{"right attempts called right"},
      no{"wrong attempts called wrong"}, repeated{"attempts repeated"}, attempts{"attempts", 0, 1};
  const std::string_view thinking = response.substr(0, response.find("<answer>"));
  std::set<std::string, std::less<>> seen;
  size_t at = std::min(thinking.find(kTry), thinking.size());
  while (at < thinking.size()) {
    const size_t next = std::min(thinking.find(kTry, at + kTry.size()), thinking.size());
    const std::string_view text = thinking.substr(at, next - at);
    at = next;
    const auto found = find_equations(text);
    equations.hits +=
        std::count_if(found.begin(), found.end(), [](const Equation& e) { return e.right(); });
    equations.trials += std::ssize(found);
    const auto attempt = replay(puzzle.numbers, found);
    const size_t said_yes = text.find(" yes."), said_no = text.find(" no.");
    if (said_yes != said_no) {  // at least one was said; the first counts
      Tally& tally = attempt && attempt->value == Rational{puzzle.target, 1} ? yes : no;
      tally.hits += (said_yes < said_no) == (&tally == &yes);
      ++tally.trials;
    }
    ++attempts.hits;
    ++repeated.trials;
    repeated.hits += !seen.insert(attempt ? attempt->tree : std::string(text)).second;
  }
  const int64_t reflected = verdict.reflected, correct = verdict.correct;
  const Tally searches{"searches right", reflected * correct, reflected},
      guesses{"guesses right", (1 - reflected) * correct, 1 - reflected};
  return {equations, yes, no, repeated, attempts, searches, guesses};
}

}  // namespace tiny_zero::countdown
