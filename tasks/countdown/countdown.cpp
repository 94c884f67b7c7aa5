// Departures from TinyZero: the checker is exact and executes nothing (expression.h). The prompt
// says that each number must be used exactly once, as both checkers demand; theirs said "can only
// be used once". The chat prompt loses a stray space and two slips of grammar.
#include "tasks/countdown/countdown.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <sstream>

#include "tiny_zero/files/json.h"

namespace tiny_zero::countdown {
namespace {

const bool kRegistered = register_task("countdown", [] { return std::make_unique<Countdown>(); });

constexpr int64_t kMaxCount = 8, kMaxNumber = 1'000'000'000;  // of a puzzle, from whatever source
constexpr size_t kMaxTest = 2048;  // generated problems of the test split

std::string list(const std::vector<int64_t>& numbers, const std::string& comma) {
  std::string text;
  for (const int64_t number : numbers) text += (text.empty() ? "" : comma) + std::to_string(number);
  return text;
}

std::string gold_text(const Puzzle& puzzle) {
  return list(puzzle.numbers, ",") + "=" + std::to_string(puzzle.target);
}

/// What decides the split: the numbers, whatever their order and the target. The failed attempts in
/// a training document are solutions of the same numbers with another target [T40].
uint64_t split_key(std::vector<int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  uint64_t bits = 0;
  for (const int64_t number : numbers) bits = mix_bits(bits + static_cast<uint64_t>(number));
  return bits;
}

/// One row {"nums": [3, 4, 5], "target": 17}; other keys are ignored. `location` is file and line,
/// for the error message.
Puzzle read_row(const std::string& line, const std::string& location) {
  using nlohmann::json;
  json row;
  try {
    row = parse_json<json>(line, "");
  } catch (const std::invalid_argument&) {
  }
  if (!row.is_object()) row = json::object();
  const json nums = row.value("nums", json()), target = row.value("target", json());
  const auto whole = [](const json& v) {
    return v.is_number_integer() && std::abs(v.get<double>()) <= kMaxNumber;
  };
  if (nums.is_array() && nums.size() >= 2 && nums.size() <= kMaxCount && whole(target) &&
      std::all_of(nums.begin(), nums.end(),
                  [&](const json& v) { return whole(v) && v.get<int64_t>() >= 1; })) {
    return {nums.get<std::vector<int64_t>>(), target.get<int64_t>()};
  }
  throw std::invalid_argument(
      location + ": found " + visible(line.substr(0, 80)) +
      ", want an object as {\"nums\": [3, 4, 5], \"target\": 17} with 2 to 8 whole numbers "
      "from 1 to 1e9 and a whole target");
}

std::vector<Puzzle> read_rows(const std::string& path) {
  std::ifstream file = open_text(path, "countdown wants a JSON Lines file of its problems");
  std::vector<Puzzle> rows;
  std::string line;
  for (int64_t number = 0; next_row(file, line, number, path);)
    rows.push_back(read_row(line, path + ":" + std::to_string(number)));
  if (rows.empty())
    throw std::invalid_argument(path + ": found no problem, want at least one line");
  return rows;
}

}  // namespace

Puzzle read_gold(const std::string& text) {
  std::istringstream in(text);
  Puzzle puzzle;
  char mark = ',';
  for (int64_t number = 0; mark == ',' && in >> number >> mark;) puzzle.numbers.push_back(number);
  if (mark == '=' && in >> puzzle.target && in.eof()) return puzzle;
  throw std::invalid_argument("countdown: the gold answer is \"" + visible(text) +
                              "\", want numbers and target as in 6,6,1=36");
}

Settings Countdown::settings() {
  Options& o = options;
  Settings list;
  list.section("countdown")
      .add("countdown-template", o.prompt_template,
           "prompt: TinyZero's for base models, the chat form of Qwen, the short form of the tiny "
           "model, or nano-aha-moment's")
      .add("countdown-train-file", o.train_file,
           "JSON Lines with nums and target to train on; empty = generated")
      .add("countdown-test-file", o.test_file,
           "the same to test on; its problems never stand in the training split")
      .add("countdown-reward", o.reward, "whose reward: see README.md, \"Rewards\"")
      .add("countdown-format-score", o.format_score, 0, 1,
           "reward of a closed <answer> that is not right")
      .add("countdown-need-think", o.need_think, "an answer counts only after </think>")
      .add("countdown-need-end", o.need_end,
           "an answer counts only if the response was not truncated")
      .add("countdown-count-min", o.count_min, 2, kMaxCount, "generated problems: fewest numbers")
      .add("countdown-count-max", o.count_max, 2, kMaxCount, "generated problems: most numbers")
      .add("countdown-number-min", o.number_min, 1, kMaxNumber,
           "generated problems: smallest number")
      .add("countdown-number-max", o.number_max, 1, kMaxNumber,
           "generated problems: largest number")
      .add("countdown-target-min", o.target_min, 1, kMaxNumber,
           "generated problems: smallest target")
      .add("countdown-target-max", o.target_max, 1, kMaxNumber,
           "generated problems: largest target")
      .add("countdown-value-max", o.value_max, 1, kMaxNumber,
           "largest value on the way, in problems and the base text's searches")
      .add("countdown-sorted", o.sorted, "generated problems: the numbers from the largest down")
      .add("countdown-test-share", o.test_share, 0, 1,
           "fraction of all problems kept for testing if there is no test file")
      .section("base text")
      .add("countdown-search-share", o.search_share, 0, 1,
           "base text: fraction of documents that search; others guess")
      .add("countdown-go-on", o.go_on, 0, 1,
           "base text: probability that a search goes on after a failed attempt")
      .add("countdown-misjudged", o.misjudged, 0, 1,
           "base text: fraction of attempts whose check comes out wrong")
      .add("countdown-max-attempts", o.max_attempts, 2, 1000,
           "base text: most attempts of one search")
      .needs("countdown-reward = tinyzero", {"countdown-format-score"})
      .needs("countdown-test-file = nothing", {"countdown-test-share"});
  return list;
}

void Countdown::prepare(uint64_t seed) {
  const Options& o = options;
  const auto ordered = [](const std::string& name, int64_t min, int64_t max) {
    if (min > max) {
      throw std::invalid_argument("countdown-" + name + "-min is " + std::to_string(min) +
                                  ", want at most countdown-" + name + "-max, which is " +
                                  std::to_string(max));
    }
  };
  ordered("count", o.count_min, o.count_max);
  ordered("number", o.number_min, o.number_max);
  ordered("target", o.target_min, o.target_max);
  if (o.number_max > o.value_max) {
    throw std::invalid_argument("countdown-value-max is " + std::to_string(o.value_max) +
                                ", want at least countdown-number-max, which is " +
                                std::to_string(o.number_max));
  }
  seed_ = seed;
  rows_ = {};
  test_keys_.clear();
  auto& [train, test] = rows_;
  if (!o.test_file.empty()) test = read_rows(o.test_file);
  for (const Puzzle& puzzle : test) test_keys_.insert(split_key(puzzle.numbers));
  if (!o.train_file.empty()) {
    train = read_rows(o.train_file);
    const auto read = train.size(),
               left_out = std::erase_if(train, [&](const Puzzle&p) { return in_test(p); });
    if (left_out > 0) {
      std::cerr << "countdown: left out " << left_out << " of the " << read << " rows of "
                << o.train_file << ", which belong to the test split\n";
    }
    if (train.empty())
      throw std::invalid_argument(o.train_file + ": every row belongs to the test split");
  }
  std::set<std::pair<uint64_t, int64_t>> seen;  // numbers and target
  for (uint64_t i = 0; o.test_file.empty() && seen.size() < kMaxTest && i < 100 * kMaxTest; ++i) {
    Random random(seed, kTest, i);
    const Puzzle puzzle = generate(Split::test, random);
    if (seen.emplace(split_key(puzzle.numbers), puzzle.target).second) test.push_back(puzzle);
  }
  problem(Split::train, 0);  // throws now if the ranges allow none
}

bool Countdown::in_test(const Puzzle& puzzle) const {
  const uint64_t key = split_key(puzzle.numbers);
  return test_keys_.empty() ? unit_interval(key) < options.test_share : test_keys_.contains(key);
}

Puzzle Countdown::generate(Split split, Random& random) const {
  const Options& o = options;
  for (int tries = 0; tries < 100'000; ++tries) {
    Puzzle puzzle;
    puzzle.numbers.resize(static_cast<size_t>(random.between(o.count_min, o.count_max)));
    for (int64_t& number : puzzle.numbers) number = random.between(o.number_min, o.number_max);
    if (o.sorted) std::sort(puzzle.numbers.rbegin(), puzzle.numbers.rend());
    puzzle.target = random_target(puzzle.numbers, o.value_max, random);
    if (puzzle.target < o.target_min || puzzle.target > o.target_max) continue;
    if (in_test(puzzle) == (split == Split::test)) return puzzle;
  }
  throw std::invalid_argument(
      std::string("countdown: 100000 tries gave no problem for the ") +
      (split == Split::test ? "test" : "training") +
      " split; are countdown-target-min and -max, countdown-test-share too narrow?");
}

int64_t Countdown::size(Split split) const {
  const auto& rows = rows_[static_cast<size_t>(split)];
  return rows.empty() ? Task::size(split) : std::ssize(rows);
}

Problem Countdown::problem(Split split, int64_t index) const {
  const auto& rows = rows_[static_cast<size_t>(split)];
  Puzzle puzzle;
  if (rows.empty()) {
    Random random(seed_, kTrain, static_cast<uint64_t>(index));
    puzzle = generate(split, random);
  } else {
    puzzle = rows[split == Split::train ? epoch_shuffled(index, rows.size(), seed_, kEpochs)
                                        : static_cast<size_t>(index) % rows.size()];
  }
  return {prompt(puzzle), gold_text(puzzle)};
}

std::string Countdown::prompt(const Puzzle& puzzle) const {
  const std::string target = std::to_string(puzzle.target);
  if (options.prompt_template == Template::short_form) {
    return "use " + list(puzzle.numbers, ",") + " once each to make " + target + "\n<think>";
  }
  if (options.prompt_template == Template::nano)
    return nano_aha_prompt(list(puzzle.numbers, ", "), target);
  const std::string task =
      "Using the numbers [" + list(puzzle.numbers, ", ") + "], create an equation that equals " +
      target + ". You can use basic arithmetic operations (+, -, *, /) and each number " +
      "must be used exactly once. Show your work in <think> </think> tags. And return the final " +
      "answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>.";
  const std::string start = "Let me solve this step by step.\n<think>";
  if (options.prompt_template == Template::chat) return chat_prompt(kThinkFirst, task, start);
  return "A conversation between User and Assistant. The user asks a question, and the Assistant "
         "solves it. The assistant first thinks about the reasoning process in the mind and then "
         "provides the user with the answer.\nUser: " +
         task + "\nAssistant: " + start;
}

Grade Countdown::grade(const Problem& problem, std::string_view response, bool finished) const {
  const Puzzle puzzle = read_gold(problem.gold);
  const bool tinyzero = options.reward == FormReward::tinyzero;
  const auto [points, whole, answer] = read_form(options.reward, response);
  Grade grade{.reward = points, .formatted = whole, .reflected = reflects(response)};
  grade.steps = equation_steps(response, finished);
  if (!answer || (options.need_end && !finished)) return grade;
  const std::string_view before =
      response.substr(0, static_cast<size_t>(answer->data() - response.data()));
  if (options.need_think && before.find("</think>") == std::string_view::npos) return grade;
  const Verdict verdict = check_expression(*answer, puzzle.numbers, puzzle.target);
  grade.formatted = whole || tinyzero;
  grade.answered = verdict != Verdict::unparsable;
  grade.correct = verdict == Verdict::right;
  grade.reward += grade.correct ? 1.0 : tinyzero ? options.format_score : 0.0;
  return grade;
}

std::string Countdown::answer(const Problem& problem, std::string_view response) const {
  const auto text = read_form(options.reward, response).answer;
  if (!text) return "";
  const Expression expression = parse_expression(*text);
  if (!expression.parsed) return "";
  const auto [num, den] = expression.value;
  std::string value = den == 0 ? "undefined" : std::to_string(num);
  if (den > 1) value += "/" + std::to_string(den);
  const Puzzle puzzle = read_gold(problem.gold);
  const bool proper = std::is_permutation(expression.literals.begin(), expression.literals.end(),
                                          puzzle.numbers.begin(), puzzle.numbers.end());
  return proper ? value : value + " from other numbers";
}

}  // namespace tiny_zero::countdown
