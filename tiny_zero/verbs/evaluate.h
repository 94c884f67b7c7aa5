#pragma once
// Evaluation with the prompts and the grader of training.

#include <span>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// A mean over problems with its 95 % interval.
struct Estimate {
  double mean = 0, low = 0, high = 0;
};

/// Mean of per-problem values in [0, 1] with Wilson's interval, the problems being a random sample.
/// Samples of one problem are not independent, so Wilson's n is their effective number: that of
/// independent samples whose mean has the variance measured over problems, times the squared ratio
/// of Student's t with total - 1 and with problems - 1 degrees of freedom, and at most all samples.
/// With one sample per problem this is Wilson's interval itself.   [Korn and Graubard 1998]
/// @param samples  independent samples behind each value: k for accuracy, 1 for maj@k
Estimate estimate_mean(const std::vector<double>& values, int64_t samples);

/// Probability that k of n samples, c of them right, include a right one:
/// 1 - C(n - c, k) / C(n, k), unbiased.   [Codex eq. 1]
double pass_at_k(int64_t n, int64_t c, int64_t k);

/// Majority vote: the index of the first answer in the largest group of answers that
/// Task::same_answer() finds equal. Ties go to the group that came first. "" does not vote; -1 if
/// there is no other answer.
int64_t majority(const Task& task, const std::vector<std::string>& answers);

/// Whether one piece of at most 512 tokens stands three times in a row, in 20 tokens or more: "..."
/// and "1000000" are no loops. Greedy decoding, for which the likeliest continuation of a repeated
/// text is to repeat it, often stays in one for long. Linear in the number of tokens.
bool has_loop(std::span<const int64_t> ids);

/// The first problems of a split, each once: a repeated one would narrow the intervals for nothing.
/// @param numbers  gets the number of each, as Task::problem() counts
std::vector<Problem> distinct_problems(const Task& task, Split split, int64_t wanted,
                                       std::vector<int64_t>& numbers);

/// Evaluates config.model on config.eval_problems distinct problems: accuracy (avg@k of the
/// papers), greedy accuracy, pass@k and maj@k, overall and by tag, and the rates that the task
/// reports. Prints a table; config.json and config.responses name files for the figures and the
/// responses, config.pass_rates one for each problem's share of right responses, which train reads.
Json evaluate(const Config& config, const Task& task);

}  // namespace tiny_zero
