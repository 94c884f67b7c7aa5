#include <doctest/doctest.h>

#include <map>

#include "tests/workplace.h"
#include "tiny_zero/methods/pass_rates.h"
#include "tiny_zero/settings/config.h"

using namespace tiny_zero;

namespace {

/// Eight training problems, whose number is their text, with an order that no seed changes.
struct Eight : Task {
  Problem problem(Split split, int64_t index) const override {
    return {(split == Split::train ? "p" : "t") + std::to_string(index % 8), "g", {"a tag"}};
  }
  int64_t size(Split split) const override { return split == Split::train ? 8 : 3; }
  Grade grade(const Problem&, std::string_view response, bool finished) const override {
    return {.reward = response == "right" && finished ? 1.0 : 0.0};
  }
  std::string answer(const Problem&, std::string_view) const override { return "answer"; }
  bool same_answer(const std::string&, const std::string&) const override { return true; }
  std::vector<Tally> diagnose(const Problem&, std::string_view) const override {
    return {{"tally", 1, 2}};
  }
};

std::string line(int index, const std::string& rate, int samples = 8) {
  return "{\"problem\": " + std::to_string(index) + ", \"prompt\": \"p" + std::to_string(index) +
         "\", \"gold\": \"g\", \"pass_rate\": " + rate +
         ", \"samples\": " + std::to_string(samples) + "}\n";
}

Config with_rates(const std::string& lines, double least = 0, double most = 1) {
  Config config;
  config.pass_rates = workplace() / "rates.jsonl";
  std::ofstream(config.pass_rates) << lines;
  config.min_pass_rate = least;
  config.max_pass_rate = most;
  return config;
}

/// How often each prompt comes among the training problems from `first` to `last`.
std::map<std::string, int> prompts(const Task& task, int64_t first, int64_t last) {
  std::map<std::string, int> counts;
  for (int64_t i = first; i < last; ++i) ++counts[task.problem(Split::train, i).prompt];
  return counts;
}

}  // namespace

TEST_CASE("pass rates choose problems, both limits included, in a new order each epoch") {
  const Eight task;
  const std::string lines = line(0, "0.0") + line(6, "0.125") + line(3, "0.5") + line(1, "0.875") +
                            line(4, "0.9") + line(2, "1");
  const ChosenProblems chosen(with_rates(lines, 0.125, 0.9), task);
  CHECK(chosen.size(Split::train) == 4);
  CHECK(chosen.size(Split::test) == 3);
  const std::map<std::string, int> once{{"p6", 1}, {"p3", 1}, {"p1", 1}, {"p4", 1}};
  std::set<std::string> orders;
  for (int64_t epoch = 0; epoch < 6; ++epoch) {
    CHECK(prompts(chosen, 4 * epoch, 4 * epoch + 4) == once);
    std::string order;
    for (int64_t i = 0; i < 4; ++i) order += chosen.problem(Split::train, 4 * epoch + i).prompt;
    orders.insert(order);
  }
  CHECK(orders.size() > 1);
  CHECK(chosen.problem(Split::train, 1).tags == std::vector<std::string>{"a tag"});
  CHECK(chosen.problem(Split::test, 1).prompt == "t1");  // only training is chosen from
  CHECK(chosen.grade({}, "right", true).reward == 1);
  CHECK(chosen.grade({}, "right", false).reward == 0);
  CHECK(chosen.answer({}, "") == "answer");
  CHECK(chosen.same_answer("a", "b"));
  CHECK(chosen.diagnose({}, "")[0].name == "tally");

  // "fewer than 4 of 64 right" [ORZ], "strictly between 0.1 and 0.9" of 10 samples [Open R1]
  const std::string of_64 = line(0, "0.0625", 64) + line(1, "0.046875", 64) + line(2, "0", 64);
  CHECK(prompts(ChosenProblems(with_rates(of_64, 0, 0.05), task), 0, 2) ==
        std::map<std::string, int>{{"p1", 1}, {"p2", 1}});
  const std::string of_10 = line(0, "0.1", 10) + line(1, "0.2", 10) + line(2, "0.9", 10);
  CHECK(prompts(ChosenProblems(with_rates(of_10, 0.11, 0.89), task), 0, 2) ==
        std::map<std::string, int>{{"p1", 2}});
}

TEST_CASE("without a file of pass rates the task is as it was") {
  const Eight task;
  const ChosenProblems all(Config(), task);
  CHECK(all.size(Split::train) == 8);
  for (int64_t i = 0; i < 10; ++i)
    CHECK(all.problem(Split::train, i).prompt == task.problem(Split::train, i).prompt);
}

TEST_CASE("pass rates that are none, or of other problems, are refused with their line") {
  const Eight task;
  const std::string good = line(0, "0.5");
  const std::vector<std::pair<std::string, std::string>> mistakes{
      {"", "rates.jsonl is empty, want what eval --pass-rates has written"},
      {good + "{}", "rates.jsonl:2: problem: found null"},
      {good + "[]", "rates.jsonl:2: "},
      {good + "\n\n" + line(8, "0.5"),
       "rates.jsonl:4: problem: found 8, want a whole number from "
       "0 to 7"},
      {line(1, "1.5"), "rates.jsonl:1: pass_rate: found 1.5, want a number from 0 to 1"},
      {line(1, "-0.1"), "want a number from 0 to 1"},
      {line(1, "\"half\""), "pass_rate: found \"half\", want a number"},
      {line(1, "0.5", 0), "samples: found 0"},
      {good + good, "rates.jsonl:2: this problem stands there twice"},
      {R"({"problem": 1, "prompt": "p2", "gold": "g", "pass_rate": 0.5, "samples": 8})",
       "rates.jsonl:1: found another problem than this task's with this seed, 0"},
      {R"({"problem": 1, "prompt": "p1", "gold": "h", "pass_rate": 0.5, "samples": 8})",
       "rates.jsonl:1: found another problem"},
      {line(1, "0.25") + line(2, "0.75"),
       "holds 2 problems, with pass rates from 0.250000 to 0.750000: none lies within "
       "min-pass-rate and max-pass-rate, widen them"}};
  for (const auto& [lines, part] : mistakes) {
    CAPTURE(lines);
    std::string message;
    try {
      ChosenProblems(with_rates(lines, 0.5, 0.6), task);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(contains(message, part));
  }
}
