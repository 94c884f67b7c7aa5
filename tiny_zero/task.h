#pragma once
// What a task offers the trainer: problems, a rule that grades responses, and text to pre-train a
// tiny model on. A task knows no tensors and no trainer; tasks/countdown is the example to copy.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tiny_zero/settings/settings.h"

namespace tiny_zero {

enum class Split { train, test };

/// One question. `gold` is the right answer in the task's own notation (Countdown: "6,6,1=36") and
/// is never shown to the model.
struct Problem {
  std::string prompt;
  std::string gold;
  std::vector<std::string> tags = {};  // what eval reports apart, such as "level 3"
};

/// A part of a response that is graded apart, such as a line or an equation.   [GRPO 4.1.3]
struct StepReward {
  int64_t end = 0;  // where it ends: bytes of the response up to and with its last
  double reward = 0.0;
};

/// What the rule says of one response.
struct Grade {
  double reward = 0.0;     // what the loop maximises
  bool correct = false;    // the answer is right
  bool formatted = false;  // the response has the shape that the prompt asked for
  bool answered = false;   // an answer could be read; false counts a parse failure apart from a
                           // wrong answer [T27]
  bool reflected = false;  // the response returns to the problem after a failed check
  std::string_view reason = "";        // for the verdict, in a few words that outlive the response
  std::vector<StepReward> steps = {};  // in order, without the answer; see grades_steps()
};

/// Text to pre-train a tiny model on. The loss is taken on the response alone.
struct Document {
  std::string prompt;
  std::string response;
};

/// A rate to report beside the reward, such as "arithmetic right": `hits` of `trials`.
struct Tally {
  std::string name;
  int64_t hits = 0;
  int64_t trials = 0;
};

class Task {
 public:
  virtual ~Task() = default;
  /// The task's own settings, read from flags and recipes like every other.
  virtual Settings settings() { return {}; }
  /// Called once after the settings are read: load files, check ranges. Throws
  /// std::invalid_argument.
  virtual void prepare(uint64_t /*seed*/) {}
  /// Problem `index` (>= 0, without end) of a split: a pure function of seed and index, so that the
  /// data cursor of a checkpoint is one number. No problem of the test split stands in the train
  /// split.
  virtual Problem problem(Split split, int64_t index) const = 0;
  /// How many problems of a split differ before they start again.
  virtual int64_t size(Split /*split*/) const { return std::numeric_limits<int64_t>::max(); }
  /// Grades any bytes: never throws, never executes them, in time linear in their number.
  /// @param finished  ended by the model or by stop-text; false if it was truncated
  virtual Grade grade(const Problem& problem, std::string_view response, bool finished) const = 0;
  /// Whether grade() fills Grade::steps, so that supervision = process has steps to reward.
  virtual bool grades_steps() const { return false; }
  /// Grades an answer that stands by itself, with no response around it. The same promises as
  /// grade().
  virtual Grade grade_answer(const Problem& /*problem*/, std::string_view /*answer*/) const {
    throw std::invalid_argument("this task grades whole responses only: {\"gold\", \"response\"}");
  }
  /// The final answer, in canonical form if there is one, "" if there is no answer.
  virtual std::string answer(const Problem& problem, std::string_view response) const = 0;
  /// Whether two answers, neither of them "", vote together in maj@k.
  virtual bool same_answer(const std::string& a, const std::string& b) const { return a == b; }
  /// Rates to report beside the reward; every response gives the same names in the same order.
  virtual std::vector<Tally> diagnose(const Problem& /*problem*/,
                                      std::string_view /*response*/) const {
    return {};
  }
  /// Pre-training document `index` of the tiny base model: a training prompt and a response to it.
  virtual Document document(int64_t /*index*/) const {
    throw std::invalid_argument(
        "this task has no base text; pretrain works with countdown and math");
  }
  /// tokenizer.json of the tiny base model.
  virtual std::string tokenizer_json() const {
    throw std::invalid_argument(
        "this task has no tiny tokenizer; pretrain works with countdown and math");
  }
};

/// The task of this name with default settings; an unknown name throws std::invalid_argument with
/// the known ones.
std::unique_ptr<Task> make_task(const std::string& name);

/// Names of all tasks, sorted.
std::vector<std::string> task_names();

/// Makes a task known by name; a task's file calls it once at namespace scope.
bool register_task(const std::string& name, std::function<std::unique_ptr<Task>()> factory);

}  // namespace tiny_zero
