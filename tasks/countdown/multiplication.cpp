// TinyZero's second task, and the smallest example of one: the product of two numbers of up to n
// digits. Departures: the prompt asks for reasoning and answer in words; the digits of an answer
// are compared as text, never converted.

#include <algorithm>
#include <cmath>
#include <set>

#include "tasks/last_answer.h"
#include "tiny_zero/random.h"
#include "tiny_zero/task.h"

namespace tiny_zero {
namespace {

class Multiplication : public Task {
 public:
  Settings settings() override {
    Settings list;
    list.section("multiplication")
        .add("multiplication-digits", digits_, 1, 9, "most digits of a factor")
        .add("multiplication-format-score", format_score_, 0, 1,
             "reward of a closed <answer> that is not right");
    return list;
  }
  /// Collects the test problems: up to 2048, no two with the same factors in whatever order.
  void prepare(uint64_t seed) override {
    constexpr uint64_t kMaxTest = 2048;
    seed_ = seed;
    test_.clear();
    std::set<Factors> seen;
    for (uint64_t i = 0; test_.size() < kMaxTest && i < 100 * kMaxTest; ++i) {
      const Factors factors = generate(Split::test, i);
      if (seen.insert(std::minmax(factors.first, factors.second)).second) test_.push_back(factors);
    }
  }

  Problem problem(Split split, int64_t index) const override {
    const auto at = static_cast<uint64_t>(index);
    const auto [a, b] =
        split == Split::test ? test_.at(at % test_.size()) : generate(Split::train, at);
    return {
        "A conversation between User and Assistant. The user asks a question, and the Assistant "
        "solves it. The assistant first thinks about the reasoning process in the mind and then "
        "provides the user with the answer in <answer> </answer> tags.\nUser: Give me the answer "
        "of the following equation: " +
            std::to_string(a) + " * " + std::to_string(b) +
            " =\nAssistant: Ok let me think about it.\n<think>",
        std::to_string(a * b)};
  }

  int64_t size(Split split) const override {
    return split == Split::test ? std::ssize(test_) : Task::size(split);
  }

  Grade grade(const Problem& problem, std::string_view response, bool /*finished*/) const override {
    Grade grade;
    const std::string found = answer(problem, response);
    grade.formatted = last_answer(response).has_value();
    grade.answered = !found.empty();
    grade.correct = found == problem.gold;
    grade.reward = grade.correct ? 1.0 : grade.formatted ? format_score_ : 0.0;
    return grade;
  }

  /// The digits of the last answer without blanks, thousands' commas and leading zeros.
  std::string answer(const Problem&, std::string_view response) const override {
    std::string number;
    for (const char c : last_answer(response).value_or("")) {
      if (c >= '0' && c <= '9') {
        number += c;
      } else if (std::string_view(" \t\r\n,").find(c) == std::string_view::npos) {
        return "";
      }
    }
    const size_t first = number.find_first_not_of('0');
    return first == std::string::npos ? number.substr(0, 1) : number.substr(first);
  }

 private:
  using Factors = std::pair<int64_t, int64_t>;

  /// A factor has up to `digits` digits half of the time, else one or two fewer [TinyZero].
  /// A tenth of all pairs, whatever the seed and the order, is kept for testing.
  Factors generate(Split split, uint64_t index) const {
    Random random(seed_, static_cast<uint64_t>(split), index);
    for (;;) {
      const int64_t a = factor(random), b = factor(random);
      const bool test =
          mix_bits(mix_bits(static_cast<uint64_t>(std::min(a, b))) + std::max(a, b)) % 10 == 0;
      if (test == (split == Split::test)) return {a, b};
    }
  }

  int64_t factor(Random& random) const {
    const int64_t fewer = std::max<int64_t>(0, random.between(-1, 2));
    const auto limit = std::llround(std::pow(10, std::max<int64_t>(1, digits_ - fewer)));
    return random.between(0, limit - 1);
  }

  uint64_t seed_ = 0;
  std::vector<Factors> test_;
  int64_t digits_ = 3;
  double format_score_ = 0.1;
};

const bool kRegistered =
    register_task("multiplication", [] { return std::make_unique<Multiplication>(); });

}  // namespace
}  // namespace tiny_zero
