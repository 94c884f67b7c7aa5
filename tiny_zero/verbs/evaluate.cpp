#include "tiny_zero/verbs/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <set>

#include "tiny_zero/methods/pass_rates.h"
#include "tiny_zero/rollout.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {
namespace {

Json estimate_json(const std::vector<double>& values, int64_t samples) {
  const auto [mean, low, high] = estimate_mean(values, samples);
  return {{"mean", mean}, {"low", low}, {"high", high}};
}

/// Whether the majority answer of a problem's responses is right.
bool majority_is_right(const Task& task, const Rollout& rollout, int64_t first, int64_t count) {
  std::vector<std::string> answers;
  for (int64_t i = first; i < first + count; ++i)
    answers.push_back(
        rollout.grades[i].answered ? task.answer(rollout.problem_of(i), rollout.texts[i]) : "");
  const int64_t winner = majority(task, answers);
  return winner >= 0 && rollout.grades[first + winner].correct;
}

/// What estimate_mean() needs of a measure, such as "pass@4".
struct Measure {
  std::string name;
  std::vector<double> values;  // one per problem
  int64_t samples;             // independent samples behind each value
};

/// The measures over the problems of each tag: {"level 3": {"problems": 20, "accuracy": {...}}}.
Json estimates_by_tag(const std::vector<Problem>& problems, const std::vector<Measure>& measures) {
  std::map<std::string, std::vector<size_t>> members;
  for (size_t p = 0; p < problems.size(); ++p)
    for (const auto& tag : problems[p].tags) members[tag].push_back(p);
  Json result = Json::object();
  for (const auto& [tag, indices] : members) {
    result[tag]["problems"] = indices.size();
    for (const auto& [name, values, samples] : measures) {
      std::vector<double> of_tag;
      for (const size_t p : indices) of_tag.push_back(values[p]);
      result[tag][name] = estimate_json(of_tag, samples);
    }
  }
  return result;
}

void print_estimate(const std::string& name, const Json& value, const std::string& note = "") {
  std::printf("%-34s %6.3f   [%.3f, %.3f]%s\n", name.c_str(), value["mean"].get<double>(),
              value["low"].get<double>(), value["high"].get<double>(), note.c_str());
}

/// Rates over all responses of a rollout: the flags of the grades, loops and the task's tallies.
Json rates(const Task& task, const Rollout& rollout) {
  std::vector<Tally> total;
  for (int64_t i = 0; i < rollout.size(); ++i) {
    const Grade& grade = rollout.grades[i];
    const int64_t* const ids = rollout.response_ids[i].data_ptr<int64_t>();
    std::vector<Tally> own{{"format", grade.formatted, 1},
                           {"answered", grade.answered, 1},
                           {"reflects", grade.reflected, 1},
                           {"truncated", !rollout.finished[i], 1},
                           {"repeats", has_loop({ids, ids + rollout.lengths[i]}), 1}};
    for (auto& tally : task.diagnose(rollout.problem_of(i), rollout.texts[i]))
      own.push_back(std::move(tally));
    total.resize(own.size());
    for (size_t j = 0; j < own.size(); ++j)
      total[j] = {own[j].name, total[j].hits + own[j].hits, total[j].trials + own[j].trials};
  }
  Json result = Json::object();
  for (const auto& [name, hits, trials] : total) {
    const Json rate = trials > 0 ? Json(1.0 * hits / trials) : Json();
    result[name] = {{"rate", rate}, {"hits", hits}, {"trials", trials}};
  }
  return result;
}

namespace fs = std::filesystem;

/// Whether a new file takes the path's place as a whole; pipes and what is under /dev are written
/// to.
bool is_replaced(const fs::path& path) {
  return (!fs::exists(path) || fs::is_regular_file(path)) && !path.string().starts_with("/dev/");
}

/// Where a new file grows until it is whole: beside the one that it replaces.
fs::path beside(const fs::path& path) { return fs::weakly_canonical(path).string() + ".partial"; }

/// Refuses what could not be written at the end, before there is something to lose; "" is no file.
void check_output(const fs::path& path) {
  if (fs::is_directory(path)) throw std::invalid_argument(path.string() + " is a directory");
  if (path.empty() || !is_replaced(path)) return;
  write_text(beside(path), "");
  fs::remove(beside(path));
}

/// Writes a file whose old text stays until the new one is on the disk; "" is no file.
void replace_text(const fs::path& path, const std::string& text) {
  if (path.empty()) return;
  if (!is_replaced(path)) return write_text(path, text);
  write_text(beside(path), text);
  fs::rename(beside(path), fs::weakly_canonical(path));
}

constexpr double kNormalQuantile = 1.959964;  // 97.5 %

/// The 97.5 % quantile of Student's t, by the Cornish-Fisher expansion about the normal quantile:
/// within 0.8 % from 2 degrees of freedom on.
double t_quantile(double degrees) {
  if (degrees < 2) return 12.7062;
  const double x = 1 / degrees;
  return kNormalQuantile + x * (2.37227 + x * (2.82250 + x * (2.55585 + x * 1.58949)));
}

}  // namespace

std::vector<Problem> distinct_problems(const Task& task, Split split, int64_t wanted,
                                       std::vector<int64_t>& numbers) {
  std::vector<Problem> problems;
  std::set<std::pair<std::string, std::string>> seen;
  for (int64_t i = 0; i < std::min(wanted, task.size(split)); ++i) {
    const Problem problem = task.problem(split, i);
    if (!seen.emplace(problem.prompt, problem.gold).second) continue;
    problems.push_back(problem);
    numbers.push_back(i);
  }
  if (std::ssize(problems) < wanted)
    std::cerr << problems.size() << " distinct problems, where " << wanted << " are asked for\n";
  return problems;
}

Estimate estimate_mean(const std::vector<double>& values, int64_t samples) {
  const double n = values.size(), total = n * samples;
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double coin = mean * (1 - mean);  // variance of one sample
  double size = n;                        // equal values say nothing of their spread
  if (squares > 1e-12 * n && coin > 0) {
    // Variance of the mean over problems, relative to that of as many independent samples.
    const double design_effect = squares / (n - 1) / n / (coin / (total - 1));
    const double t_ratio = t_quantile(total - 1) / t_quantile(n - 1);
    size = std::min(total, total / design_effect * t_ratio * t_ratio);
  }
  constexpr double z = kNormalQuantile;
  const double centre = (mean + z * z / (2 * size)) / (1 + z * z / size);
  const double half = z / (1 + z * z / size) * std::sqrt(coin / size + z * z / (4 * size * size));
  return {mean, std::clamp(centre - half, 0.0, mean), std::clamp(centre + half, mean, 1.0)};
}

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  if (n - c < k) return 1.0;
  double all_wrong = 1.0;
  for (int64_t i = n - c + 1; i <= n; ++i) all_wrong *= 1.0 - 1.0 * k / i;
  return 1.0 - all_wrong;
}

bool has_loop(std::span<const int64_t> ids) {
  constexpr size_t kTimes = 3, kLeastTokens = 20, kLongestPiece = 512;
  for (size_t piece = 1; piece <= std::min(ids.size() / kTimes, kLongestPiece); ++piece) {
    const size_t least = std::max(kTimes * piece, kLeastTokens) - piece;
    size_t same = 0;  // tokens up to here that equal those one piece before
    for (size_t i = piece; i < ids.size(); ++i) {
      same = ids[i] == ids[i - piece] ? same + 1 : 0;
      if (same >= least) return true;
    }
  }
  return false;
}

int64_t majority(const Task& task, const std::vector<std::string>& answers) {
  std::vector<std::pair<size_t, int64_t>> groups;  // index of the first answer, votes
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].empty()) continue;
    const auto same = [&](const auto& group) {
      return task.same_answer(answers[group.first], answers[i]);
    };
    auto group = std::find_if(groups.begin(), groups.end(), same);
    if (group == groups.end()) group = groups.insert(group, {i, 0});
    ++group->second;
  }
  const auto most =
      std::max_element(groups.begin(), groups.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == groups.end() ? -1 : static_cast<int64_t>(most->first);
}

Json evaluate(const Config& config, const Task& task) {
  std::set<fs::path> outputs;
  for (const std::string& path : {config.json, config.responses, config.pass_rates}) {
    check_output(path == "-" ? "" : path);
    if (!path.empty() && is_replaced(path) && !outputs.insert(fs::weakly_canonical(path)).second)
      throw std::invalid_argument("two of json, responses and pass-rates are both " + path +
                                  ", want two files");
  }
  if (fs::is_regular_file(config.pass_rates))  // which train may have been given
    throw std::invalid_argument("pass-rates is " + config.pass_rates +
                                ", which is there already; eval writes a new file");
  const LoadedModel loaded = load_model(config);
  const Split split = config.split == "train" ? Split::train : Split::test;
  std::vector<int64_t> numbers;
  const std::vector<Problem> problems =
      distinct_problems(task, split, config.eval_problems, numbers);
  const int64_t num_problems = std::ssize(problems);
  const int64_t k = config.eval_samples;
  Progress progress(0, num_problems * (k + (config.greedy ? 1 : 0)), config.json != "-");
  const auto run = [&](double temperature, int64_t samples, Stream stream) {
    SamplingOptions options = sampling_options(config, temperature, stream);
    const int64_t before = stream == Stream::greedy ? num_problems * k : 0;
    options.on_progress = [&](int64_t done, int64_t) { progress.show(before + done); };
    Sampler sampler(loaded.model, options);
    Rollout rollout = sampler.sample(loaded.tokenizer, problems, samples, /*call=*/0);
    grade(task, rollout);
    return rollout;
  };
  Stopwatch watch;
  const Rollout sampled = run(config.temperature, k, Stream::evaluation);
  Json report = {{"model", config.model},
                 {"split", config.split},
                 {"problems", num_problems},
                 {"samples", k},
                 {"temperature", config.temperature},
                 {"seed", config.seed}};
  std::vector<Measure> measures;
  std::vector<double> averages, majorities;
  std::map<int64_t, std::vector<double>> passes;  // k -> per problem
  for (int64_t p = 0; p < num_problems; ++p) {
    int64_t right = 0;
    for (int64_t i = p * k; i < (p + 1) * k; ++i) right += sampled.grades[i].correct;
    averages.push_back(1.0 * right / k);
    majorities.push_back(majority_is_right(task, sampled, p * k, k));
    for (int64_t j = 2; j <= k; j *= 2) passes[j].push_back(pass_at_k(k, right, j));
  }
  measures.push_back({"accuracy", averages, k});  // avg@k
  for (const auto& [j, values] : passes)          // pass@j needs j samples for one yes or no
    measures.push_back({"pass@" + std::to_string(j), values, k / j});
  if (k > 1) measures.push_back({"maj@" + std::to_string(k), majorities, 1});
  Json all_rates = rates(task, sampled);
  if (config.greedy) {
    const Rollout best = run(/*temperature=*/0.0, 1, Stream::greedy);
    std::vector<double> right;
    for (const auto& grade : best.grades) right.push_back(grade.correct);
    measures.push_back({"greedy", right, 1});
    all_rates["greedy repeats"] = rates(task, best)["repeats"];
  }
  for (const auto& [name, values, samples] : measures)
    report[name] = estimate_json(values, samples);
  report["by_tag"] = estimates_by_tag(problems, measures);
  report["reward_mean"] = sampled.rewards.mean().item<double>();
  report["response_tokens_mean"] = 1.0 * sampled.response_tokens() / sampled.size();
  report["rates"] = all_rates;
  report["seconds"] = watch.lap();
  progress.clear();

  if (config.json != "-") {
    for (const auto& [name, value] : report.items()) {
      if (value.is_object() && value.contains("mean")) print_estimate(name, value);
      if (value.is_number_float()) std::printf("%-34s %6.3f\n", name.c_str(), value.get<double>());
    }
    for (const auto& [tag, estimates] : report["by_tag"].items())
      print_estimate(measures[0].name + ", " + visible(tag), estimates[measures[0].name],
                     "   (" + estimates["problems"].dump() + " problems)");
    for (const auto& [name, rate] : report["rates"].items())
      std::printf("%-34s %6s   (%ld of %ld)\n", name.c_str(),
                  rate["rate"].is_null() ? "-" : rate["rate"].dump().substr(0, 5).c_str(),
                  rate["hits"].get<long>(), rate["trials"].get<long>());
  }
  const std::string figures = report.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
  if (config.json == "-") std::cout << figures;
  if (config.json != "-") replace_text(config.json, figures);
  std::string lines;
  for (int64_t i = 0; i < sampled.size() && !config.responses.empty(); ++i) {
    const Json line = {{"problem", i / k},
                       {"prompt", sampled.problem_of(i).prompt},
                       {"response", sampled.texts[i]},
                       {"gold", sampled.problem_of(i).gold},
                       {"finished", static_cast<bool>(sampled.finished[i])},
                       {"reward", sampled.grades[i].reward},
                       {"correct", sampled.grades[i].correct},
                       {"reflected", sampled.grades[i].reflected}};
    lines += line.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  }
  replace_text(config.responses, lines);
  replace_text(config.pass_rates, pass_rate_lines(problems, numbers, averages, k));
  return report;
}

}  // namespace tiny_zero
