// With math-need-end a truncated response has no answer: a model that does not end its responses
// needs a stop-text, as in recipes/open_reasoner_zero.conf.
#include "tasks/math/math.h"

#include <algorithm>
#include <iostream>
#include <numeric>
#include <set>
#include <sstream>

#include "tasks/byte_tokenizer.h"
#include "tasks/form_rewards.h"
#include "tasks/math/grader.h"
#include "tiny_zero/files/json.h"
#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

using nlohmann::json;

const bool kRegistered = register_task("math", [] { return std::make_unique<Math>(); });

constexpr const char* kSample =
#include "tasks/math/sample.inc"  // sample.jsonl as a string, written by CMake
    ;

/// The first of these fields that a row has, a number as its digits; "" if it has none.
std::string field(const json& row, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const json value = row.value(name, json());
    if (value.is_string()) return value;
    if (value.is_number()) return value.dump();
    if (!value.is_null()) throw std::invalid_argument(name);
  }
  return "";
}

/// "Level 3" and "3" are 3; "" and MATH's "Level ?" are 0, unknown.
int64_t read_level(std::string text) {
  if (text.starts_with("Level ")) text.erase(0, 6);
  if (text.empty() || text == "?") return 0;
  if (text.size() > 1 || text[0] < '1' || text[0] > '5') throw std::invalid_argument("level");
  return text[0] - '0';
}

/// The rows of a file, or of the sample for "", whose gold answer the grader can read.
std::vector<Row> read_rows(const std::string& path) {
  std::ifstream file;
  std::istringstream sample(kSample);
  if (!path.empty()) file = open_text(path, "math wants a JSON Lines file of problems");
  std::istream& in = path.empty() ? static_cast<std::istream&>(sample) : file;
  std::vector<Row> rows;
  std::string left_out;
  std::string line;
  for (int64_t number = 0; next_row(in, line, number, path);) {
    const std::string location = path + ":" + std::to_string(number);
    Row row = read_row(line, location);
    if (!readable(row.answer)) {
      left_out += "\n  " + location + ": " + visible(row.answer);
    } else {
      rows.push_back(std::move(row));
    }
  }
  if (!left_out.empty())
    std::cerr << "math: left out, as the grader cannot read the right answer:" << left_out << '\n';
  return rows;
}

/// Decides the split: uniform in [0, 1), and the same whatever the seed and the other rows.
double hash_of(const std::string& problem) { return unit_interval(mix_text(problem)); }

}  // namespace

Row read_row(const std::string& line, const std::string& location) try {
  const json row = parse_json<json>(line, "");
  Row result{field(row, {"problem", "question"}),
             field(row, {"answer"}),
             field(row, {"solution"}),
             field(row, {"subject", "type"}),
             field(row, {"source"}),
             read_level(field(row, {"level"}))};
  const size_t mark = result.answer.rfind("####");
  if (mark != std::string::npos) {  // GSM8K's solution and answer
    result.solution = result.answer;
    result.answer.erase(0, result.answer.find_first_not_of(' ', mark + 4));
  } else if (result.answer.empty()) {
    result.answer = extract_boxed(result.solution).value_or("");
  }
  if (result.problem.empty() ||
      (result.answer.empty() && result.solution.empty() && !row.contains("answer"))) {
    throw std::invalid_argument("missing");
  }
  return result;
} catch (const std::exception&) {
  throw std::invalid_argument(
      location + ": found " + visible(line.substr(0, 80)) +
      ", want an object with the texts \"problem\" (or \"question\") and \"answer\" (or a "
      "\"solution\" with its \\boxed{} answer); \"level\", if given, as 3 or \"Level 3\"");
}

Settings Math::settings() {
  Options& o = options;
  constexpr double kAny = Settings::kAny;
  Settings list;
  list.section("math")
      .add("math-train-file", o.train_file,
           "JSON Lines of problems to train on; empty = a sample of 60 problems")
      .add("math-test-file", o.test_file,
           "the same to test on; empty = a part of the training file")
      .add("math-test-share", o.test_share, 0, 1,
           "fraction of the training file kept for testing if there is no test file")
      .add("math-level-min", o.level_min, 0, 5,
           "training problems: lowest level; 0 also takes those without a level")
      .add("math-level-max", o.level_max, 0, 5, "training problems: highest level")
      .add("math-subject", o.subject, "training problems: of this subject only; empty = of all")
      .add("math-count", o.count, 0, 1'000'000'000,
           "training problems: so many, chosen at random by the seed; 0 = all")
      .add("math-template", o.prompt_template,
           "prompt: with tags, the chat form of Qwen2.5-Math, words, the problem alone, Open R1's")
      .add("math-extract", o.extract,
           "the answer: in <answer> or else the last box, in <answer> only, or the last number "
           "[GSM8K]")
      .add("math-need-end", o.need_end, "an answer counts only if the response was not truncated")
      .add("math-right-score", o.right_score, -kAny, kAny, "reward of a right answer")
      .add("math-wrong-score", o.wrong_score, -kAny, kAny, "reward of a wrong answer")
      .add("math-none-score", o.none_score, -kAny, kAny, "reward of a response without an answer")
      .add("math-format-score", o.format_score, -kAny, kAny,
           "added if the response has the form that was asked for")
      .add("math-tag-score", o.tag_score, -kAny, kAny, "added, times tag_count() [Open R1]")
      .needs("math-test-file = nothing", {"math-test-share"});
  return list;
}

void Math::prepare(uint64_t seed) {
  const Options& o = options;
  seed_ = seed;
  auto& [train, test] = rows_;
  train = read_rows(o.train_file);
  test = o.test_file.empty() ? train : read_rows(o.test_file);
  std::set<std::string> tested;
  if (o.test_file.empty())
    std::erase_if(test, [&](const Row& row) { return hash_of(row.problem) >= o.test_share; });
  for (const Row& row : test) tested.insert(row.problem);
  const size_t shared =
      std::erase_if(train, [&](const Row& row) { return tested.contains(row.problem); });
  if (shared > 0 && !o.test_file.empty()) {
    std::cerr << "math: left out " << shared << " training problems that stand in " << o.test_file
              << '\n';
  }
  std::erase_if(train, [&](const Row& row) {
    return row.level < o.level_min || row.level > o.level_max ||
           (!o.subject.empty() && row.subject != o.subject);
  });
  if (train.empty()) {
    throw std::invalid_argument(
        "math: no training problem is left; see math-train-file, -level-min, -level-max, -subject");
  }
  std::vector<Row> chosen;
  for (int64_t i = 0; i < std::min(o.count, std::ssize(train)); ++i)
    chosen.push_back(train_row(kCount, i));
  if (!chosen.empty()) train = chosen;
}

const Row& Math::train_row(Sequence sequence, int64_t index) const {
  const auto& rows = rows_[static_cast<size_t>(Split::train)];
  return rows[epoch_shuffled(index, rows.size(), seed_, sequence)];
}

Problem Math::problem(Split split, int64_t index) const {
  const auto& test = rows_[static_cast<size_t>(Split::test)];
  if (split == Split::test && test.empty()) {
    throw std::invalid_argument(
        "math: there is no test problem, want a math-test-file or a larger math-test-share");
  }
  const Row& row = split == Split::train ? train_row(kEpochs, index)
                                         : test[static_cast<size_t>(index) % test.size()];
  Problem result{prompt(row.problem), row.answer};
  if (row.level > 0) result.tags.push_back("level " + std::to_string(row.level));
  for (const auto& tag : {row.subject, row.source}) {
    if (!tag.empty()) result.tags.push_back(tag);
  }
  return result;
}

int64_t Math::size(Split split) const {
  return std::max<int64_t>(1, std::ssize(rows_[static_cast<size_t>(split)]));
}

std::string Math::prompt(const std::string& problem) const {
  switch (options.prompt_template) {
    case Template::orz:  // [ORZ], R1-Zero's text with the box spelled out
      return "A conversation between User and Assistant. The User asks a question, and the "
             "Assistant solves it. The Assistant first thinks about the reasoning process in the "
             "mind and then provides the User with the answer. The reasoning process is enclosed "
             "within <think> </think> and answer is enclosed within <answer> </answer> tags, "
             "respectively, i.e., <think> reasoning process here </think> <answer> answer here "
             "</answer>. User: You must put your answer inside <answer> </answer> tags, i.e., "
             "<answer> answer here </answer>. And your final answer will be extracted "
             "automatically by the \\boxed{} tag.\nThis is the problem:\n" +
             problem + "\nAssistant: <think>";
    case Template::qwen:  // [Qwen2.5-Math, SimpleRL]
      return chat_prompt("Please reason step by step, and put your final answer within \\boxed{}.",
                         problem);
    case Template::open_r1:
      return open_r1_prompt(problem);
    case Template::plain:
      return problem +
             "\nPlease reason step by step, and put your final answer within \\boxed{}.\n";
    case Template::short_form:
      break;
  }
  return problem + "\n";
}

std::optional<std::string_view> Math::extract(std::string_view response) const {
  if (options.extract == Extract::number) return extract_last_number(response);
  if (options.extract == Extract::tags && !extract_tagged(response)) return std::nullopt;
  return extract_answer(response);
}

/// With tags: "reasoning </think> <answer> ... </answer>", each tag once and nothing after them;
/// without: a closed box.
bool Math::has_form(std::string_view response) const {
  if (options.prompt_template == Template::open_r1) return open_r1_form(response);
  if (options.prompt_template != Template::orz) return extract_boxed(response).has_value();
  size_t end = 0;
  for (const std::string_view tag : {"</think>", "<answer>", "</answer>"}) {
    const size_t at = response.find(tag);
    if (at == std::string_view::npos || at < end || at != response.rfind(tag)) return false;
    end = at + tag.size();
  }
  return response.find_first_not_of(" \t\r\n", end) == std::string_view::npos;
}

Grade Math::grade(const Problem& problem, std::string_view response, bool finished) const {
  const bool truncated = options.need_end && !finished;
  const auto found = truncated ? std::nullopt : extract(response);
  Grade grade{.reward = options.none_score,
              .reason = truncated ? "the response was truncated" : "no answer"};
  if (found) grade = grade_answer(problem, *found);
  grade.formatted = has_form(response);
  if (grade.formatted) grade.reward += options.format_score;
  const std::string start = options.prompt_template == Template::orz ? "<think>" : "";
  grade.reward += options.tag_score * tag_count(start + std::string(response));
  for (const std::string_view word :
       {"wait,", "Wait,", "recheck", "retry", "lternatively,", "owever,"}) {  // [ORZ]
    grade.reflected = grade.reflected || response.find(word) != std::string_view::npos;
  }
  return grade;
}

Grade Math::grade_answer(const Problem& problem, std::string_view answer) const {
  const Verdict verdict = compare(problem.gold, answer);
  Grade grade;
  grade.answered = true;
  grade.correct = verdict.equal;
  grade.reward = verdict.equal ? options.right_score : options.wrong_score;
  grade.reason = verdict.reason;
  return grade;
}

std::string Math::answer(const Problem&, std::string_view response) const {
  return std::string(extract(response).value_or(""));
}

bool Math::same_answer(const std::string& a, const std::string& b) const {
  return a == b || equivalent(a, b) || equivalent(b, a);
}

Document Math::document(int64_t index) const {
  const Row& row = train_row(kDocuments, index);
  return {prompt(row.problem), row.solution.empty() ? "\\boxed{" + row.answer + "}" : row.solution};
}

std::string Math::tokenizer_json() const {
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  constexpr std::string_view kWords[] = {"<|endoftext|>"};
  return byte_tokenizer_json(bytes, kWords);
}

}  // namespace tiny_zero::math
