#pragma once
// Training problems by pass rate: the share of right responses that eval measured for each.

#include "tiny_zero/task.h"

namespace tiny_zero {

struct Config;

/// The file that ChosenProblems reads, from the right share of `samples` responses to each problem.
/// @param numbers  as the task counts the problems
std::string pass_rate_lines(const std::vector<Problem>& problems,
                            const std::vector<int64_t>& numbers, const std::vector<double>& rates,
                            int64_t samples);

/// The task with only those training problems whose pass rate, as the file config.pass_rates has
/// it, lies from min_pass_rate to max_pass_rate, both included; in a new seeded order each epoch.
/// Without a file it is the task itself. A rate is k right of n samples, so limits that exclude
/// their ends are limits between two shares: "strictly between 0.1 and 0.9" of 10 samples [Open R1]
/// is 0.11 to 0.89, "fewer than 4 of 64" [ORZ] is 0 to 0.05.
class ChosenProblems : public Task {
 public:
  /// Says on the standard error how many problems there are.
  /// @param task  outlives this
  /// @throws std::invalid_argument, with the line, for what is no rate of a training problem of
  /// this task, seed and prompt; and if no problem lies within the limits
  ChosenProblems(const Config& config, const Task& task);

  Problem problem(Split split, int64_t index) const override;
  int64_t size(Split split) const override;
  Grade grade(const Problem& problem, std::string_view response, bool finished) const override {
    return task_.grade(problem, response, finished);
  }
  bool grades_steps() const override { return task_.grades_steps(); }
  Grade grade_answer(const Problem& problem, std::string_view answer) const override {
    return task_.grade_answer(problem, answer);
  }
  std::string answer(const Problem& problem, std::string_view response) const override {
    return task_.answer(problem, response);
  }
  bool same_answer(const std::string& a, const std::string& b) const override {
    return task_.same_answer(a, b);
  }
  std::vector<Tally> diagnose(const Problem& problem, std::string_view response) const override {
    return task_.diagnose(problem, response);
  }

 private:
  const Task& task_;
  uint64_t seed_;
  std::vector<int64_t> numbers_;  // of the chosen problems, as the task counts; empty = all
};

}  // namespace tiny_zero
