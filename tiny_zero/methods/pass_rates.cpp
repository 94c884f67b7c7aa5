#include "tiny_zero/methods/pass_rates.h"

#include <iostream>
#include <set>

#include "tiny_zero/files/json.h"
#include "tiny_zero/random.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

std::string pass_rate_lines(const std::vector<Problem>& problems,
                            const std::vector<int64_t>& numbers, const std::vector<double>& rates,
                            int64_t samples) {
  std::string lines;
  for (size_t p = 0; p < problems.size(); ++p) {
    const auto& [prompt, gold, tags] = problems[p];
    const Json line = {{"problem", numbers[p]},
                       {"prompt", prompt},
                       {"gold", gold},
                       {"pass_rate", rates[p]},
                       {"samples", samples}};
    lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  }
  return lines;
}

ChosenProblems::ChosenProblems(const Config& config, const Task& task)
    : task_(task), seed_(static_cast<uint64_t>(config.seed)) {
  const std::string& name = config.pass_rates;
  if (name.empty()) return;
  std::ifstream file = open_text(name, "pass-rates wants what eval --pass-rates has written");
  std::set<int64_t> seen;
  double lowest = 1, highest = 0;
  int64_t most_samples = 0;
  std::string line;
  for (int64_t number = 0; next_row(file, line, number, name);) {
    const std::string place = name + ":" + std::to_string(number) + ": ";
    const auto row = parse_json<nlohmann::json>(line, place);
    const Field fields{row, place};
    const int64_t index = fields["problem"].integer(0, task.size(Split::train) - 1);
    const double rate = fields["pass_rate"].number();
    if (!(rate >= 0 && rate <= 1)) fields["pass_rate"].fail("a number from 0 to 1");
    most_samples = std::max(most_samples, fields["samples"].integer(1, 1 << 30));
    const Problem problem = task.problem(Split::train, index);
    if (fields["prompt"].text() != problem.prompt || fields["gold"].text() != problem.gold)
      throw std::invalid_argument(
          place + "found another problem than this task's with this seed, " +
          std::to_string(seed_) + ", want what eval --split train measured with both");
    if (!seen.insert(index).second)
      throw std::invalid_argument(place + "this problem stands there twice, want it once");
    lowest = std::min(lowest, rate);
    highest = std::max(highest, rate);
    if (rate >= config.min_pass_rate && rate <= config.max_pass_rate) numbers_.push_back(index);
  }
  if (seen.empty())
    throw std::invalid_argument(name + " is empty, want what eval --pass-rates has written");
  const std::string all = std::to_string(seen.size()) + " problems";
  if (numbers_.empty())
    throw std::invalid_argument(name + " holds " + all + ", with pass rates from " +
                                std::to_string(lowest) + " to " + std::to_string(highest) +
                                ": none lies within min-pass-rate and max-pass-rate, widen them");
  std::cerr << name << ": " << numbers_.size() << " of " << all << " chosen\n";
  if (most_samples == 1)
    std::cerr << name << " has one sample of each problem, so that every rate is 0 or 1\n";
}

Problem ChosenProblems::problem(Split split, int64_t index) const {
  if (split == Split::test || numbers_.empty()) return task_.problem(split, index);
  return task_.problem(split, numbers_[epoch_shuffled(index, numbers_.size(), seed_,
                                                      static_cast<uint64_t>(Stream::shuffle))]);
}

int64_t ChosenProblems::size(Split split) const {
  return split == Split::test || numbers_.empty() ? task_.size(split) : std::ssize(numbers_);
}

}  // namespace tiny_zero
