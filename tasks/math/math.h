#pragma once
// Problems whose answer is a mathematical object, from JSON Lines files: MATH, GSM8K, AIME, or your
// own. The grader (grader.h) decides which answers are the same.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tiny_zero/task.h"

namespace tiny_zero::math {

enum class Template { orz, qwen, plain, short_form, open_r1 };
constexpr auto choices(Template) { return std::array{"orz", "qwen", "plain", "short", "open-r1"}; }

enum class Extract { any, tags, number };
constexpr auto choices(Extract) { return std::array{"any", "tags", "number"}; }

/// One problem of a file. README.md lists the fields of a row.
struct Row {
  std::string problem, answer, solution;
  std::string subject, source;  // "" = unknown
  int64_t level = 0;            // 1 (easy) to 5; 0 = unknown
};

/// @param line   {"problem", "answer" or "solution", "level", "subject", "source"}, or the fields
///               of MATH or GSM8K
/// @param location  file and line, for errors
/// @throws std::invalid_argument with file and line, what was found and what was wanted
Row read_row(const std::string& line, const std::string& location);

struct Options {
  // "" = the sample; without a test file, part of the training file is kept for testing
  std::string train_file = {}, test_file = {};
  double test_share = 0.25;
  int64_t level_min = 0, level_max = 5, count = 0;
  std::string subject = {};
  Template prompt_template = Template::orz;
  Extract extract = Extract::any;
  bool need_end = false;
  double right_score = 1, wrong_score = 0, none_score = 0, format_score = 0, tag_score = 0;
};

class Math : public Task {
 public:
  Options options;  // set before prepare()

  Settings settings() override;
  /// Loads the files. Rows whose gold answer the grader cannot read [T28], and training rows that
  /// are in the test file, are left out and reported on standard error.
  void prepare(uint64_t seed) override;
  /// Test rows in their order, training rows in a new order each epoch; tagged with level, subject
  /// and source.
  Problem problem(Split split, int64_t index) const override;
  int64_t size(Split split) const override;
  Grade grade(const Problem& problem, std::string_view response, bool finished) const override;
  Grade grade_answer(const Problem& problem, std::string_view answer) const override;
  std::string answer(const Problem& problem, std::string_view response) const override;
  bool same_answer(const std::string& a, const std::string& b) const override;
  /// A training problem with its solution as the file has it, right or wrong.
  Document document(int64_t index) const override;
  std::string tokenizer_json() const override;

 private:
  enum Sequence : uint64_t { kEpochs, kDocuments, kCount };

  const Row& train_row(Sequence sequence, int64_t index) const;
  std::string prompt(const std::string& problem) const;
  std::optional<std::string_view> extract(std::string_view response) const;
  bool has_form(std::string_view response) const;

  uint64_t seed_ = 0;
  std::array<std::vector<Row>, 2> rows_;  // by split
};

}  // namespace tiny_zero::math
