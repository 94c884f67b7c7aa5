#include "tiny_zero/verbs/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {
namespace {

namespace fs = std::filesystem;

std::vector<Json> read_lines(const fs::path& path) {
  std::ifstream file = open_text(path, "`eval` or `train` writes it");
  std::vector<Json> lines;
  std::string line;
  for (int64_t number = 0; next_row(file, line, number, path.string());) {
    const std::string place = path.string() + ":" + std::to_string(number) + ": ";
    lines.push_back(parse_json<Json>(line, place));
    if (!lines.back().is_object()) throw std::invalid_argument(place + "is not a JSON object");
  }
  return lines;
}

/// The figures of an evaluation for the table, by name; null for a rate of no trials.
Json figures(const Json& evaluation) {
  Json result = Json::object();
  for (const auto& [name, value] : evaluation.items()) {
    if (value.is_object() && value.contains("mean")) result[name] = value["mean"];
  }
  result["response tokens"] = evaluation.at("response_tokens_mean");
  for (const auto& [name, rate] : evaluation.at("rates").items()) result[name] = rate.at("rate");
  return result;
}

/// Moving average of a metric over 2 radius + 1 steps: one step has few problems, so it is noisy.
std::vector<double> smooth(const std::vector<Json>& metrics, const char* name, int64_t radius) {
  std::vector<double> result;
  const int64_t steps = std::ssize(metrics);
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t first = std::max<int64_t>(0, i - radius), last = std::min(steps - 1, i + radius);
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) sum += metrics[j].at(name).get<double>();
    result.push_back(std::round(sum / (last - first + 1) * 1e4) / 1e4);
  }
  return result;
}

std::string cell(const Json& value) {
  return value.is_number() ? format("%.3f", value.get<double>()) : "-";
}

/// The first problem that the base model gets wrong and that the trained one gets right by
/// reflecting; if there is none, problem 0.
size_t pick_problem(const std::vector<Json>& before, const std::vector<Json>& after) {
  for (size_t i = 0; i < std::min(before.size(), after.size()); ++i) {
    if (before[i].at("correct").get<bool>()) continue;
    if (after[i].at("correct").get<bool>() && after[i].at("reflected").get<bool>()) return i;
  }
  return 0;
}

/// Compares each figure with the smallest and largest of earlier seeds, widened by the noise of
/// 1,024 problems.   @return whether all lie inside
bool print_range(const std::vector<Json>& earlier, const Json& figures_after) {
  constexpr double kNoise = 0.03;  // half the 95 % interval of a rate near 1/2, 1,024 problems
  bool inside = true;
  std::printf("\nExpected range, from %zu earlier seeds:\n", earlier.size());
  for (const char* name : {"accuracy", "response tokens", "reflects"}) {
    double low = INFINITY, high = -INFINITY;
    for (const auto& line : earlier) {
      const double value = line.at("after").at(name).get<double>();
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const double margin = kNoise * (high > 1.5 ? high : 1.0);  // tokens: in proportion
    const double value = figures_after.at(name).get<double>();
    const bool fits = value >= low - margin && value <= high + margin;
    const char* const where = fits ? "inside" : value > high ? "above" : "below";
    std::printf("  %-18s %8.3f   [%.3f, %.3f]  %s\n", name, value, low - margin, high + margin,
                where);
    inside &= fits;
  }
  return inside;
}

}  // namespace

void report(const Config& config) {
  const fs::path directory = fs::path(config.runs_dir) / config.name;
  const auto metrics = read_lines(directory / "metrics.jsonl");
  if (metrics.empty())
    throw std::invalid_argument((directory / "metrics.jsonl").string() +
                                " is empty: train the run first");
  const auto read = [&](const char* name) {
    return figures(read_json(directory / name, "`eval --json` writes it"));
  };
  const Json before = read("before.json"), after = read("after.json");

  std::printf("\n%-34s %10s %10s\n", "on problems never trained on", "before", "after");
  for (const auto& [name, value] : before.items())
    std::printf("%-34s %10s %10s\n", name.c_str(), cell(value).c_str(),
                cell(after.value(name, Json())).c_str());

  const size_t problem =
      pick_problem(read_lines(directory / "before.jsonl"), read_lines(directory / "after.jsonl"));
  std::printf("\nOne problem (number %zu of the test split) as training went on:\n", problem);
  for (const char* stage : {"before", "middle", "after"}) {
    const Json line = read_lines(directory / (std::string(stage) + ".jsonl")).at(problem);
    std::printf("\n--- %s, reward %g\n%s%s\n", stage, line.at("reward").get<double>(),
                visible(line.at("prompt").get<std::string>()).c_str(),
                visible(line.at("response").get<std::string>()).c_str());
  }

  const int64_t radius = std::max<int64_t>(1, std::ssize(metrics) / 30);
  const auto accuracy = smooth(metrics, "accuracy", radius),
             tokens = smooth(metrics, "response_tokens_mean", radius),
             reflection = smooth(metrics, "reflection_rate", radius);
  std::ostringstream curve;
  curve << "# step accuracy response_tokens reflection, each a mean over " << 2 * radius + 1
        << " steps\n";
  for (size_t i = 0; i < metrics.size(); ++i)
    curve << metrics[i].value("step", i) << '\t' << accuracy[i] << '\t' << tokens[i] << '\t'
          << reflection[i] << '\n';
  write_text(directory / "curve.tsv", curve.str());
  const Json summary = {{"name", config.name},
                        {"steps", metrics.size()},
                        {"train_wall_s", metrics.back().at("wall_s")},
                        {"peak_memory_bytes", metrics.back().at("peak_memory_bytes")},
                        {"before", before},
                        {"after", after},
                        {"accuracy", accuracy},
                        {"response_tokens", tokens},
                        {"reflection", reflection}};
  write_text(directory / "summary.json", summary.dump() + "\n");
  if (config.expected.empty()) return;
  const bool inside = print_range(read_lines(config.expected), after);
  std::printf("The run lies %s the expected range.\n", inside ? "in" : "outside");
}

}  // namespace tiny_zero
