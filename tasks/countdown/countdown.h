#pragma once
// Countdown: write an expression with + - * / that uses each given number exactly once and equals
// the target [TinyZero].

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tasks/countdown/attempt.h"
#include "tasks/form_rewards.h"
#include "tiny_zero/task.h"

namespace tiny_zero::countdown {

enum class Template { base, chat, short_form, nano };
constexpr auto choices(Template) { return std::array{"base", "chat", "short", "nano"}; }

/// Numbers and the value to reach. The gold answer of a problem is their text: "6,6,1=36".
struct Puzzle {
  std::vector<int64_t> numbers;
  int64_t target = 0;
};
Puzzle read_gold(const std::string& text);  // throws std::invalid_argument if it is no such text

struct Options {
  std::string train_file, test_file;  // "" = generated
  Template prompt_template = Template::base;
  FormReward reward = FormReward::tinyzero;
  double format_score = 0.1;
  bool need_think = false, need_end = false;
  // generator
  int64_t count_min = 3, count_max = 4;
  int64_t number_min = 1, number_max = 99;
  int64_t target_min = 10, target_max = 100;
  int64_t value_max = 999;
  bool sorted = false;
  double test_share = 0.1;
  // base text
  double search_share = 0.2, go_on = 0.9, misjudged = 0;
  int64_t max_attempts = 32;
};

class Countdown : public Task {
 public:
  Options options;  // set before prepare()

  Settings settings() override;
  /// Loads the files. An unusable line throws std::invalid_argument with file and line. Training
  /// rows that belong to the test split are left out; standard error says how many.
  void prepare(uint64_t seed) override;
  /// From a file: test rows in their order, training rows in a new order each epoch. Generated
  /// problems are solvable. The test split repeats after 2048 different ones, or as many as the
  /// ranges allow.
  Problem problem(Split split, int64_t index) const override;
  int64_t size(Split split) const override;
  Grade grade(const Problem& problem, std::string_view response, bool finished) const override;
  bool grades_steps() const override { return true; }
  /// The exact value of the answer, "36" or "24/7", so that all ways to write it vote
  /// together; with a remark if it does not use exactly the given numbers. "" if no answer can be
  /// read.
  std::string answer(const Problem& problem, std::string_view response) const override;
  /// Reads the short form: attempts that begin with " try " and are judged " yes." or " no.". The
  /// last two tallies hold for every form: a search is a response that reflects(), a guess is not.
  std::vector<Tally> diagnose(const Problem& problem, std::string_view response) const override;
  /// Short form only. The problem is always generated, and never from the test split.
  Document document(int64_t index) const override;
  std::string tokenizer_json() const override;

 private:
  enum Sequence : uint64_t { kTrain, kTest, kDocuments, kEpochs };

  /// One rule for files and generator: a puzzle belongs to the test split if its numbers are in the
  /// test file or, without one, if their hash falls below test_share, whatever the seed. Neither
  /// the order of the numbers nor the target matters [T40].
  bool in_test(const Puzzle& puzzle) const;
  Puzzle generate(Split split, Random& random) const;
  std::string prompt(const Puzzle& puzzle) const;

  uint64_t seed_ = 0;
  std::array<std::vector<Puzzle>, 2> rows_;  // by split; empty = generated
  std::set<uint64_t> test_keys_;             // numbers of the test file
};

/// Whether the response returns to the problem after a failed check: an equation, later a phrase
/// that rejects or hesitates ("no.", "wrong", "too high", "wait", ...), later one that starts anew
/// ("try", "instead", "let me", ...), later another equation, in upper or lower case. A heuristic
/// on natural language; on the short form, another attempt follows " no." or " wait, try ".
bool reflects(std::string_view response);

/// Each equation of the response before its <answer>, with reward 1 if it is true, exactly, and 0
/// if not; whose numbers it uses and what it is for does not matter. In the short form
/// ("6*6=36,36-1=35") as in natural text ("(6 + 1) × 2 = 14, too low"). The left side must hold an
/// operator; one in words, with decimal or algebraic signs is no step. Of "a=b=c" each "=" is an
/// equation.   @param finished  false if the response was truncated: its last number may be cut off
std::vector<StepReward> equation_steps(std::string_view response, bool finished);

}  // namespace tiny_zero::countdown
