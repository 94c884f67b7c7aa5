#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tasks/countdown/countdown.h"
#include "tasks/last_answer.h"
#include "tasks/math/grader.h"
#include "tiny_zero/files/json.h"

using namespace tiny_zero;
using namespace tiny_zero::countdown;

namespace {

using Numbers = std::vector<int64_t>;

/// The demo's problems, small enough for many collisions.
Countdown small_task(uint64_t seed = 0) {
  Countdown task;
  task.options.prompt_template = Template::short_form;
  task.options.count_max = 3;
  task.options.number_max = 10;
  task.options.target_min = 1;
  task.options.target_max = 50;
  task.options.value_max = 199;
  task.prepare(seed);
  return task;
}

/// Brute force in floating point, which shares no code with the module.
bool solvable(std::vector<double> left, double target) {
  if (left.size() == 1) return std::abs(left[0] - target) < 1e-6;
  for (size_t i = 0; i < left.size(); ++i) {
    for (size_t j = 0; j < left.size(); ++j) {
      if (i == j) continue;
      std::vector<double> rest;
      for (size_t k = 0; k < left.size(); ++k) {
        if (k != i && k != j) rest.push_back(left[k]);
      }
      for (const double value :
           {left[i] + left[j], left[i] - left[j], left[i] * left[j], left[i] / left[j]}) {
        rest.push_back(value);
        if (solvable(rest, target)) return true;
        rest.pop_back();
      }
    }
  }
  return false;
}

std::string canonical(const Problem& problem) {
  Puzzle puzzle = read_gold(problem.gold);
  std::sort(puzzle.numbers.begin(), puzzle.numbers.end());
  std::string text = std::to_string(puzzle.target);
  for (const int64_t number : puzzle.numbers) text += " " + std::to_string(number);
  return text;
}

std::vector<std::string> split_text(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t end; (end = text.find(separator, at)) != std::string::npos;
       at = end + separator.size()) {
    parts.push_back(text.substr(at, end - at));
  }
  parts.push_back(text.substr(at));
  return parts;
}

std::string text(const Document& document) { return document.prompt + document.response; }

/// "6,6,1=36" of a document that begins "use 6,6,1 once each to make 36\n".
std::string document_gold(const std::string& document) {
  const std::string words = " once each to make ";
  const size_t at = document.find(words), line = document.find('\n');
  REQUIRE((document.starts_with("use ") && at < line && line < document.size()));
  return document.substr(4, at - 4) + "=" +
         document.substr(at + words.size(), line - at - words.size());
}

/// Checks that "6-1=5,5+6=11" is true and uses exactly `numbers`; returns its last result. `key`
/// gets the equations with the operands of + and * sorted, which is equal for attempts that compute
/// the same.
int64_t check_attempt(const std::string& text, const Numbers& numbers, std::string& key) {
  std::multiset<int64_t> left(numbers.begin(), numbers.end());
  int64_t c = 0;
  for (const std::string& equation : split_text(text, ",")) {
    long a = 0, b = 0, written = 0;
    char op = 0;
    int end = 0;
    REQUIRE(std::sscanf(equation.c_str(), "%ld%c%ld=%ld%n", &a, &op, &b, &written, &end) == 4);
    REQUIRE(static_cast<size_t>(end) == equation.size());
    for (const long operand : {a, b}) {
      REQUIRE(left.count(operand) > 0);
      left.erase(left.find(operand));
    }
    if (op == '/') REQUIRE(b * written == a);
    if (op != '/') REQUIRE((op == '+' ? a + b : op == '-' ? a - b : a * b) == written);
    REQUIRE(a >= b);  // the larger first
    REQUIRE(written >= 0);
    REQUIRE(written <= 199);
    if (op == '+' || op == '*')
      key += std::to_string(std::min(a, b)) + op + std::to_string(std::max(a, b)) + ";";
    if (op == '-' || op == '/') key += std::to_string(a) + op + std::to_string(b) + ";";
    left.insert(c = written);
  }
  REQUIRE(left.size() == 1);
  return c;
}

class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    static int count = 0;
    path = (std::filesystem::temp_directory_path() /
            ("countdown_" + std::to_string(getpid()) + "_" + std::to_string(++count) + ".jsonl"))
               .string();
    std::ofstream(path) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  std::string path;
};

const Problem kProblem{"", "3,3,8,8=24"};
const Problem kEasy{"", "6,6,1=11"};

double rate(int64_t hits, int64_t trials) {
  return static_cast<double>(hits) / static_cast<double>(trials);
}

}  // namespace

TEST_CASE("countdown: check_expression on awkward answers [T26]") {
  struct Case {
    std::string text;
    Numbers numbers;
    int64_t target;
    Verdict verdict;
  };
  const auto right = Verdict::right, value = Verdict::wrong_value, other = Verdict::wrong_numbers,
             junk = Verdict::unparsable;
  const std::vector<Case> cases = {
      {"8/(3-8/3)", {3, 3, 8, 8}, 24, right},      // thirds on the way
      {" ( 1 + 2 )\t/\n3 ", {3, 2, 1}, 1, right},  // the prompt's example
      {"10-3-2", {2, 3, 10}, 5, right},            // from left to right
      {"24/4/2", {2, 4, 24}, 3, right},            //
      {"2+3*4", {2, 3, 4}, 14, right},             // * before +
      {"2*3+4", {2, 3, 4}, 10, right},             //
      {"12/2*3", {2, 3, 12}, 18, right},           // / and * rank alike
      {"8-6/3-2", {8, 6, 3, 2}, 4, right},         //
      {"((((7))))", {7}, 7, right},                //
      {"0+5", {0, 5}, 5, right},                   // a lone zero is a number
      {"3\u00d74\u22122", {2, 3, 4}, 10, right},   // × and −
      {"8\u00f72\u00b73", {2, 3, 8}, 12, right},   // ÷ and ·
      {"7/2", {7, 2}, 3, value},                   // not rounded
      {"1/3*3", {1, 3, 3}, 1, right},              // exact where floating point need not be
      {"6+5", {6, 5}, 12, value},                  //
      {"6+6-1+6", {6, 6, 1}, 17, other},           // a number reused
      {"6+6", {6, 6, 1}, 12, other},               // one left out
      {"36", {6, 6, 1}, 36, other},                // the target itself
      {"61-6", {6, 6, 1}, 55, other},              // digits joined
      {"5/(3-3)", {3, 3, 5}, 0, value},            // division by zero
      {"0*(5/(3-3))", {0, 3, 3, 5}, 0, value},     // zero times undefined is not zero
      {"2**10", {2, 10}, 1024, junk},              //
      {"7//2", {7, 2}, 3, junk},                   //
      {"1.5*4", {1, 5, 4}, 6, junk},               // TinyZero's pattern sees 1, 5, 4
      {".5*8", {5, 8}, 4, junk},                   //
      {"9**9**9", {9, 9, 9}, 1, junk},             // must not run for ever
      {"1 2", {1, 2}, 12, junk},                   // no joining
      {"2(3)", {2, 3}, 6, junk},                   // no unwritten *
      {"(2)(3)", {2, 3}, 6, junk},                 //
      {"2)3", {2, 3}, 5, junk},                    //
      {"07+1", {7, 1}, 8, junk},                   //
      {"00", {0}, 0, junk},                        //
      {"6+5=11", {6, 5}, 11, junk},                // an equation is no expression
      {"x+5", {5}, 5, junk},                       //
      {"6 % 5", {6, 5}, 1, junk},                  //
      {"1e1", {1, 1}, 10, junk},                   //
      {"", {1}, 1, junk},                          //
      {" ", {1}, 1, junk},                         //
      {"()", {1}, 1, junk},                        //
      {"(1", {1}, 1, junk},                        //
      {"1)", {1}, 1, junk},                        //
      {"1+", {1}, 1, junk},                        //
      {"*1", {1}, 1, junk},                        //
      {"-3+5", {3, 5}, 2, right},                  // a leading minus is free
      {"2*(-3+5)", {2, 3, 5}, 4, right},           //
      {"-(3-5)", {3, 5}, 2, right},                //
      {"-3*2+7", {2, 3, 7}, 1, right},             // -(3*2)+7
      {"5*-3", {3, 5}, -15, junk},                 // but not after an operator
      {"5--3", {3, 5}, 8, junk},                   //
      {"--3", {3}, 3, junk},                       //
      {"-", {3}, 3, junk},                         //
      {"+3", {3}, 3, junk},                        //
      {"99999999999999999999", {9}, 9, other},     // beyond 64 bits
      {"3000000000*4000000000",
       {3000000000, 4000000000},
       -6446744073709551616,
       value},                                                                // would wrap to this
      {"9223372036854775807+1", {9223372036854775807, 1}, INT64_MIN, value},  //
      {std::string("1+2\0", 4), {1, 2}, 3, junk},                             // NUL
      {std::string("\0", 1), {1}, 1, junk},                                   //
      {"1+2\xff", {1, 2}, 3, junk},                                           // invalid UTF-8
      {"1\xc3", {1}, 1, junk},     // half a typographic sign
      {"\xe2\x88", {1}, 1, junk},  //
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    CHECK(check_expression(c.text, c.numbers, c.target) == c.verdict);
  }
}

TEST_CASE("countdown: rationals overflow to undefined, never wrap") {
  const Rational big{INT64_MAX, 1}, least{INT64_MIN, 1}, sliver{1, INT64_MAX};
  for (const Rational undefined :
       {apply('+', big, {1, 1}), apply('-', least, {1, 1}), apply('*', big, {2, 1}),
        apply('/', sliver, big), apply('/', least, {-1, 1}), apply('/', {1, 1}, {0, 1}),
        apply('/', {1, 1}, least), apply('+', {0, 0}, {1, 1}), apply('*', {0, 1}, {0, 0})}) {
    CHECK(undefined.den == 0);
  }
  CHECK(apply('*', big, sliver) == Rational{1, 1});  // the product overflows, the value does not
  CHECK(apply('+', {1, 6}, {1, 3}) == Rational{1, 2});
  CHECK(apply('-', {1, 3}, {1, 2}) == Rational{-1, 6});
  CHECK(apply('/', {2, 1}, {-4, 1}) == Rational{-1, 2});
}

TEST_CASE("countdown: a megabyte of anything is graded without a crash") {
  const size_t n = 1'000'000;
  const auto repeat = [&](const std::string& text) {
    std::string all;
    while (all.size() < n) all += text;
    return all;
  };
  const std::string deep = std::string(100'000, '(') + "3" + std::string(100'000, ')');
  CHECK(check_expression(deep, {3}, 3) == Verdict::right);
  CHECK(check_expression(repeat("("), {3}, 3) == Verdict::unparsable);
  CHECK(check_expression(repeat("(-"), {3}, 3) == Verdict::unparsable);
  CHECK(check_expression(repeat("3+") + "3", {3}, 3) == Verdict::wrong_numbers);
  CHECK(check_expression(repeat("9"), {9}, 9) == Verdict::wrong_numbers);
  CHECK(check_expression("1" + repeat("/97"), {1}, 1) == Verdict::wrong_numbers);
  Countdown task;
  for (const char* piece : {"<", "<answer>", "</answer>", "<answer></answer>", "<answer>1+1",
                            " try ", " try 6-1=5,5+6=11 no.", "1+", "1=", "not",
                            "no. try =", "12345678", "1*1=1,", "\xff", "(", "<answer>((("}) {
    CAPTURE(piece);
    const std::string response = repeat(piece);
    CHECK(task.grade(kProblem, response, true).reward <= 0.1);
    CHECK(task.diagnose(kProblem, response).size() == 7);
    task.answer(kProblem, response);
  }
}

TEST_CASE("countdown: the answer is the last complete pair of tags [T27]") {
  CHECK(last_answer("<answer>1</answer>") == "1");
  CHECK(last_answer("<answer>1</answer> no, <answer>2</answer>") == "2");
  CHECK(last_answer("<answer>1</answer> <answer>2") == "1");           // the second is not closed
  CHECK(last_answer("<answer>1 <answer>2</answer></answer>") == "2");  // nested: the innermost
  CHECK(last_answer("</answer>1<answer>") == std::nullopt);
  CHECK(last_answer("<answer>1</answer></answer>") == "1");
  CHECK(math::extract_tagged("<answer>1</answer></answer>") == "1");  // MATH reads the same pair
  CHECK(last_answer("<answer></answer>") == "");
  CHECK(last_answer("<Answer>1</Answer>") == std::nullopt);
  CHECK(last_answer("<answer>1</answer") == std::nullopt);
  CHECK(last_answer("1+2") == std::nullopt);
  CHECK(last_answer(std::string_view("\0<answer>\0</answer>", 19)) == std::string_view("\0", 1));
}

TEST_CASE("countdown: grade gives TinyZero's three rewards") {
  Countdown task;
  const auto score = [&](const std::string& response) {
    return task.grade(kProblem, response, true).reward;
  };
  CHECK(score("so</think> <answer> 8/(3-8/3) </answer>") == 1.0);
  CHECK(score("<answer>8+8+3+3</answer>") == 0.1);
  CHECK(score("<answer>about 24</answer>") == 0.1);
  CHECK(score("<answer> (1 + 2) / 3 </answer>") == 0.1);  // quoted from the prompt
  CHECK(score("8/(3-8/3)") == 0.0);
  CHECK(score("<answer>8/(3-8/3)") == 0.0);
  CHECK(score("") == 0.0);

  const Grade junk = task.grade(kProblem, "<answer>about 24</answer>", true);
  CHECK_FALSE(junk.answered);
  CHECK(junk.formatted);
  const Grade wrong = task.grade(kProblem, "<answer>8+8+3+3</answer>", true);
  CHECK(wrong.answered);
  CHECK_FALSE(wrong.correct);
  CHECK(task.grade(kProblem, "<answer>8/(3-8/3)</answer>", /*finished=*/false).correct);

  task.options.format_score = 0.25;
  CHECK(score("<answer>1</answer>") == 0.25);
  task.options.need_think = true;
  CHECK(score("<answer>8/(3-8/3)</answer></think>") == 0.0);
  CHECK(score("</think><answer>8/(3-8/3)</answer>") == 1.0);
  task.options.need_end = true;
  CHECK(task.grade(kProblem, "</think><answer>8/(3-8/3)</answer>", /*finished=*/false).reward ==
        0.0);
  CHECK_THROWS_AS(task.grade({"", "6,6=1=3"}, "", true),
                  std::invalid_argument);  // our own fault is not hidden
  CHECK_THROWS_AS(task.grade({"", "6,6"}, "", true), std::invalid_argument);
}

TEST_CASE("countdown: reflects() wants equation, rejection, new start, equation") {
  CHECK(reflects(" try 6-1=5,5+6=11 want 36 no. wait, try 6*6=36"));
  CHECK_FALSE(
      reflects(" try 6-1=5,5+6=11 want 36 no.</think><answer>(6-1)+6</answer>"));  // gives up
  CHECK_FALSE(reflects(" try 6-1=5,5+6=11</think><answer>(6-1)+6</answer>"));      // guesses
  CHECK_FALSE(reflects(" try 6-1=5,5+6=11 want 11 yes.</think><answer>(6-1)+6</answer>"));
  CHECK(reflects("8 + 3 = 11, which is Too Low. Instead, 8 * 3 = 24."));
  CHECK(reflects("8 - 3 = 5. That doesn’t work. Let’s use 8 + 3 = 11."));
  CHECK(reflects("8 - 3 = 5. Hmm, what about 8 + 3 = 11?"));
  CHECK_FALSE(
      reflects("Do not use a number twice. Let me try 8 - 3 = 5."));      // nothing was checked yet
  CHECK_FALSE(reflects("8 - 3 = 5 is wrong. The country has casinos."));  // no new attempt
  CHECK_FALSE(reflects("8 - 3 = 5 is wrong. Let me stop here."));
  CHECK_FALSE(reflects("2 + 3 = 5 in a casino. A country = B"));  // words, not parts of words
  CHECK_FALSE(reflects(""));
}

TEST_CASE("countdown: answer() votes by exact value") {
  Countdown task;
  CHECK(task.answer(kProblem, "<answer>8/(3-8/3)</answer>") == "24");
  CHECK(task.answer(kProblem, "<answer> 8 / (3 - 8/3)</answer>") == "24");
  CHECK(task.answer(kProblem, "<answer>3*8</answer>") == "24 from other numbers");
  CHECK(task.answer(kProblem, "<answer>8/3+8/3</answer>") == "16/3");
  CHECK(task.answer(kProblem, "<answer>8/(3-3)+8</answer>") == "undefined");
  CHECK(task.answer(kProblem, "<answer>24!</answer>") == "");
  CHECK(task.answer(kProblem, "24") == "");
}

TEST_CASE("countdown: diagnose on hand-written responses to 6,6,1=11") {
  Countdown task;
  using Row = std::vector<std::pair<int64_t, int64_t>>;
  const auto row = [&](const std::string& response) {
    const std::vector<std::string> names = {"equations right",
                                            "right attempts called right",
                                            "wrong attempts called wrong",
                                            "attempts repeated",
                                            "attempts",
                                            "searches right",
                                            "guesses right"};
    Row result;
    for (const Tally& tally : task.diagnose(kEasy, response)) {
      CHECK(tally.name == names.at(result.size()));
      result.push_back({tally.hits, tally.trials});
    }
    return result;
  };
  const std::string right = "</think><answer>6+6-1</answer>",
                    wrong = "</think><answer>6*6-1</answer>";
  CHECK(row(" try 6-1=5,5+6=11" + right) ==
        Row{{2, 2}, {0, 0}, {0, 0}, {0, 1}, {1, 1}, {0, 0}, {1, 1}});
  CHECK(row(" try 6*6=36,36-1=35 want 11 no. wait, try 6+6=12,12-1=11 want 11 yes." + right) ==
        Row{{4, 4}, {1, 1}, {1, 1}, {0, 2}, {2, 1}, {1, 1}, {0, 0}});
  // A right attempt called wrong, a wrong one called right.
  CHECK(row(" try 6+6=12,12-1=11 want 11 no. wait, try 6*6=36,36-1=35 want 11 yes." + wrong) ==
        Row{{4, 4}, {0, 1}, {0, 1}, {0, 2}, {2, 1}, {0, 1}, {0, 0}});
  // 6+6=13 is untrue: written 12, truly 11, so "no." is a mistake. 6-1=5,5+6=11 twice, once with
  // operands swapped.
  CHECK(row(" try 6+6=13,13-1=12 want 11 no. wait, try 6-1=5,5+6=11 want 11 yes. wait, try "
            "6-1=5,6+5=11 want 11 yes." +
            right) == Row{{5, 6}, {2, 3}, {0, 0}, {1, 3}, {3, 1}, {1, 1}, {0, 0}});
  // A number left out, or one that is not there: the attempt is wrong whatever its last value.
  CHECK(row(" try 6+6=12 want 11 no. wait, try 10+1=11,6/6=1 want 11 yes." + wrong) ==
        Row{{3, 3}, {0, 0}, {1, 2}, {0, 2}, {2, 1}, {0, 1}, {0, 0}});
  CHECK(row("") == Row{{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 1}, {0, 0}, {0, 1}});
  // Not counted as equations: part of a sum, a number beyond 64 bits, what follows the answer.
  CHECK(row(" try 1+2+3=6,99999999999999999999+1=2<answer>1</answer>1+1=2") ==
        Row{{0, 0}, {0, 0}, {0, 0}, {0, 1}, {1, 1}, {0, 0}, {0, 1}});
}

TEST_CASE("countdown: the steps of a response are its equations, right or wrong [GRPO 4.1.3]") {
  using Steps = std::vector<std::pair<std::string, double>>;  // the text up to the end, reward
  const auto steps = [](const std::string& response, bool finished = true) {
    Steps result;
    size_t from = 0;
    for (const auto& [end, reward] : equation_steps(response, finished)) {
      REQUIRE(end <= std::ssize(response));
      REQUIRE(end > static_cast<int64_t>(from));
      result.emplace_back(response.substr(from, end - from), reward);
      from = static_cast<size_t>(end);
    }
    return result;
  };
  CHECK(
      steps(
          " try 6*6=36,36-1=34 want 11 no. wait, try 6+6=12</think><answer>6*6=36</answer>1+1=2") ==
      Steps{{" try 6*6=36", 1}, {",36-1=34", 0}, {" want 11 no. wait, try 6+6=12", 1}});
  CHECK(steps("") == Steps{});
  CHECK(steps("no numbers = none, x = 3, 36 = 36") == Steps{});
  // Natural text: blanks, brackets, signs of a typesetter, lists, a sentence around it.
  CHECK(steps("So (6 + 1) \u00d7 2 = 14 - too low. 6 \u2212 1 = 6.") ==
        Steps{{"So (6 + 1) \u00d7 2 = 14", 1}, {" - too low. 6 \u2212 1 = 6", 0}});
  CHECK(steps("- 6 + 6 = 12\n* 6*6 = 35\n1. 6-1 = 5\n(6/6 = 1)") ==
        Steps{{"- 6 + 6 = 12", 1}, {"\n* 6*6 = 35", 0}, {"\n1. 6-1 = 5", 1}, {"\n(6/6 = 1", 1}});
  CHECK(steps("-3+5=2") == Steps{{"-3+5=2", 1}});
  // Exact: no rounding, nothing undefined. Each "=" of a chain for itself.
  CHECK(steps("1/3=0, 2/6=1/3") == Steps{{"1/3=0", 0}, {", 2/6=1/3", 1}});
  CHECK(steps("1/0=1/0") == Steps{{"1/0=1/0", 0}});
  CHECK(steps("6*6=36-1=35") == Steps{{"6*6=36-1", 0}, {"=35", 1}});
  // No step: decimals, algebra, other signs, numbers beyond 64 bits on the right.
  CHECK(steps("1/3=0.33; 1.5*4=6; x1+2=3; 2x+3=5; 6*6!=35; 6*6==36; 6*6>=36; 6*6=thirty") ==
        Steps{});
  CHECK(steps("99999999999999999999+1=2") == Steps{{"99999999999999999999+1=2", 0}});
  // What was cut off may have gone on.
  CHECK(steps("6-1=5, 6*6=3", /*finished=*/false) == Steps{{"6-1=5", 1}});
  CHECK(steps("6-1=5, 6*6=36 ", /*finished=*/false) == Steps{{"6-1=5", 1}, {", 6*6=36", 1}});
  // On the short form they are the equations that diagnose() counts.
  const Countdown task = small_task();
  CHECK(task.grades_steps());
  for (int64_t i = 0; i < 300; ++i) {
    const Document document = task.document(i);
    const auto found =
        find_equations(document.response.substr(0, document.response.find("<answer")));
    const Grade grade = task.grade({"", "1,2=3"}, document.response, true);
    REQUIRE(grade.steps.size() == found.size());
    for (size_t j = 0; j < found.size(); ++j) CHECK(grade.steps[j].reward == found[j].right());
  }
  // In linear time: a second would be a thousand times too long.
  for (const std::string& part : {std::string("="), std::string("("), std::string("6*6=36,"),
                                  std::string("\xE2"), std::string("- "), std::string("1+")}) {
    std::string text;
    while (text.size() < 1'000'000) text += part;
    const auto start = std::clock();
    equation_steps(text + "=1", true);
    CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 1);
  }
}

TEST_CASE("countdown: generated problems are pure, solvable and within their ranges") {
  Countdown task;
  task.prepare(3);
  Countdown again;
  again.prepare(3);
  for (int64_t i = 0; i < 5; ++i)
    again.problem(Split::train, 1000 + i);  // the order of calls does not matter
  std::set<std::string> prompts;
  std::map<size_t, int> counts;
  for (const Split split : {Split::train, Split::test}) {
    for (int64_t i = 0; i < 300; ++i) {
      const Problem problem = task.problem(split, i);
      CHECK(problem.gold == again.problem(split, i).gold);
      CHECK(problem.prompt == again.problem(split, i).prompt);
      const Puzzle puzzle = read_gold(problem.gold);
      CAPTURE(problem.gold);
      CHECK(puzzle.target >= 10);
      CHECK(puzzle.target <= 100);
      CHECK(std::all_of(puzzle.numbers.begin(), puzzle.numbers.end(),
                        [](int64_t n) { return n >= 1 && n <= 99; }));
      CHECK(solvable({puzzle.numbers.begin(), puzzle.numbers.end()},
                     static_cast<double>(puzzle.target)));
      ++counts[puzzle.numbers.size()];
      prompts.insert(problem.prompt);
    }
  }
  CHECK(counts.size() == 2);
  CHECK(counts[3] > 150);
  CHECK(counts[4] > 100);
  CHECK(prompts.size() > 590);
  again.prepare(4);
  CHECK(task.problem(Split::train, 0).gold != again.problem(Split::train, 0).gold);
}

TEST_CASE(
    "countdown: no problem stands in both splits, whatever the seed and the order of the numbers") {
  std::set<std::string> train, test;
  for (const uint64_t seed : {0u, 1u}) {
    const Countdown task = small_task(seed);
    for (int64_t i = 0; i < 10'000; ++i) {
      train.insert(canonical(task.problem(Split::train, i)));
      train.insert(canonical({"", document_gold(text(task.document(i)))}));
      test.insert(canonical(task.problem(Split::test, i)));
    }
  }
  for (const std::string& problem : test) CHECK(train.count(problem) == 0);
  CHECK(rate(std::ssize(test), std::ssize(train) + std::ssize(test)) ==
        doctest::Approx(0.1).epsilon(0.2));
}

TEST_CASE("countdown: no text of the training split uses the numbers of a test problem [T40]") {
  Countdown task;
  task.options.prompt_template = Template::short_form;
  task.options.count_max = 3;
  task.options.number_max = 15;
  task.options.target_min = 1;
  task.options.target_max = 50;
  task.options.value_max = 50;
  task.options.test_share = 0.25;
  task.prepare(0);
  const auto numbers_of = [](const std::string& text) {  // "use 3,1,2 once each to make 5"
    std::multiset<int64_t> numbers;
    std::istringstream in(text.substr(4));
    char mark = ',';
    for (int64_t number = 0; mark == ',' && in >> number; in >> mark) numbers.insert(number);
    return numbers;
  };
  std::set<std::multiset<int64_t>> tested;
  for (int64_t i = 0; i < task.size(Split::test); ++i) {
    tested.insert(numbers_of(task.problem(Split::test, i).prompt));
  }
  CHECK(tested.size() > 100);
  for (int64_t i = 0; i < 2000; ++i) {
    CHECK_FALSE(tested.contains(numbers_of(task.document(i).prompt)));
    CHECK_FALSE(tested.contains(numbers_of(task.problem(Split::train, i).prompt)));
  }
}

TEST_CASE("countdown: generated test problems all differ until they start again") {
  Countdown task = small_task();
  task.options.test_share = 0.5;
  task.prepare(0);
  std::set<std::string> seen;
  int64_t i = 0;
  for (; seen.insert(canonical(task.problem(Split::test, i))).second; ++i) CHECK(i < 3000);
  CHECK(i > 900);  // half of some 2,400
  CHECK(task.problem(Split::test, i).gold == task.problem(Split::test, 0).gold);
}

TEST_CASE("countdown: prompts name the numbers and the target") {
  TemporaryFile rows("{\"nums\": [44, 19, 35], \"target\": 98}\n");
  Countdown task;
  task.options.test_file = rows.path;
  task.prepare(0);
  const std::string base = task.problem(Split::test, 0).prompt;
  CHECK(base.starts_with("A conversation between User and Assistant."));
  CHECK(base.find("Using the numbers [44, 19, 35], create an equation that equals 98.") !=
        std::string::npos);
  CHECK(base.find("exactly once") != std::string::npos);
  CHECK(base.ends_with("\nAssistant: Let me solve this step by step.\n<think>"));
  task.options.prompt_template = Template::chat;
  const std::string chat = task.problem(Split::test, 0).prompt;
  CHECK(chat.starts_with("<|im_start|>system\n"));
  CHECK(chat.ends_with(
      "<|im_end|>\n<|im_start|>assistant\nLet me solve this step by step.\n<think>"));
  task.options.prompt_template = Template::short_form;
  CHECK(task.problem(Split::test, 0).prompt == "use 44,19,35 once each to make 98\n<think>");
}

TEST_CASE("countdown: files give test rows in order and training rows in a new order each epoch") {
  std::string train, test;
  for (int i = 0; i < 11; ++i)
    train += "{\"target\": " + std::to_string(100 + i) + ", \"nums\": [1, 2, " +
             (i < 3 ? "3" : "4") + "]}\r\n\n";
  for (int i = 0; i < 3; ++i)
    test += "{\"nums\": [3, 2, 1], \"target\": " + std::to_string(202 - i) + ", \"x\": []}\n";
  TemporaryFile train_file(train), test_file(test);
  Countdown task;
  task.options.train_file = train_file.path;
  task.options.test_file = test_file.path;
  std::ostringstream report;
  auto* const terminal = std::cerr.rdbuf(report.rdbuf());
  task.prepare(0);
  std::cerr.rdbuf(terminal);
  CHECK(report.str().find("left out 3 of the 11 rows") != std::string::npos);
  CHECK(task.problem(Split::test, 0).gold == "3,2,1=202");
  CHECK(task.problem(Split::test, 4).gold == "3,2,1=201");
  std::set<std::string> orders;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    std::set<std::string> seen;
    std::string order;
    for (int64_t i = 0; i < 8; ++i) {  // 11 rows less the 3 whose numbers stand in the test file
      const std::string gold = task.problem(Split::train, epoch * 8 + i).gold;
      seen.insert(gold);
      order += gold;
    }
    CHECK(seen.size() == 8);
    CHECK(seen.count("1,2,3=100") == 0);
    orders.insert(order);
  }
  CHECK(orders.size() == 5);
}

TEST_CASE("countdown: a file for one split alone does not let the other one repeat it") {
  const Countdown generator = small_task();
  std::string rows;
  std::set<std::string> in_file;
  for (int64_t i = 0; i < 2000; ++i) {
    const Problem problem = generator.problem(Split::train, i);
    const Puzzle puzzle = read_gold(problem.gold);
    rows += nlohmann::json{{"nums", puzzle.numbers}, {"target", puzzle.target}}.dump() + "\n";
    in_file.insert(canonical(problem));
  }
  TemporaryFile file(rows);
  Countdown task = generator;
  task.options.test_file = file.path;
  task.prepare(0);
  for (int64_t i = 0; i < 2000; ++i) {
    CHECK(in_file.count(canonical(task.problem(Split::train, i))) == 0);
    CHECK(in_file.count(canonical({"", document_gold(text(task.document(i)))})) == 0);
  }
  task.options.train_file = file.path;
  task.options.test_file = "";
  task.prepare(0);
  for (int64_t i = 0; i < 2000; ++i)
    CHECK(in_file.count(canonical(task.problem(Split::test, i))) == 0);
}

TEST_CASE("countdown: unusable rows are refused with file and line, unusable settings by name") {
  const auto message = [](const std::string& line) {
    TemporaryFile file("{\"nums\": [1, 2], \"target\": 3}\n" + line + "\n");
    Countdown task;
    task.options.test_file = file.path;
    try {
      task.prepare(0);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what()).substr(file.path.size());
    }
    return std::string("accepted");
  };
  for (const char* line :
       {"{", "[]", "7", "nul", "{\"nums\": [1, 2]}", "{\"target\": 3}",
        "{\"nums\": 3, \"target\": 3}", "{\"nums\": [1], \"target\": 1}",
        "{\"nums\": [1, 2.5], \"target\": 3}", "{\"nums\": [1, -2], \"target\": 3}",
        "{\"nums\": [0, 2], \"target\": 3}", "{\"nums\": [1, \"2\"], \"target\": 3}",
        "{\"nums\": [1, 2], \"target\": \"3\"}", "{\"nums\": [1, 2], \"target\": 3.5}",
        "{\"nums\": [1, 18446744073709551615], \"target\": 3}",
        "{\"nums\": [1, 2], \"target\": 1e30}", "{\"nums\": [1,1,1,1,1,1,1,1,1], \"target\": 3}",
        "{\"nums\": [1, 2], \"target\": 3}}", "\xff"}) {
    CAPTURE(line);
    CHECK(message(line).starts_with(":2: found " + visible(line) + ", want "));
  }
  CHECK(message("{\"nums\": [1, 2], \"target\": -1}") == "accepted");

  const auto refused = [](auto change) {
    Countdown task;
    change(task.options);
    try {
      task.prepare(0);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(refused([](Options& o) {
          o.test_file = "/nowhere.jsonl";
        }).starts_with("/nowhere.jsonl cannot be opened"));
  CHECK(refused([](Options& o) { o.count_min = 5; }).starts_with("countdown-count-min is 5"));
  CHECK(refused([](Options& o) { o.value_max = 50; }).starts_with("countdown-value-max is 50"));
  CHECK(refused([](Options& o) { o.number_max = 2, o.target_min = 90; }).find("no problem") !=
        std::string::npos);
  CHECK(refused([](Options& o) { o.test_share = 0; }).find("test split") != std::string::npos);
  CHECK(refused([](Options&) {}) == "accepted");
  TemporaryFile empty("\n");
  CHECK(refused([&](Options& o) { o.train_file = empty.path; }).find("found no problem") !=
        std::string::npos);
}

/// Every attempt at `numbers`, as next_attempt() orders them: written out by loops that share no
/// code with the module. For three numbers.
std::vector<std::string> ordered_attempts(const Numbers& numbers, int64_t max_value) {
  const auto equation = [&](int64_t x, int64_t y, char op, std::string& text) -> int64_t {
    const int64_t a = std::max(x, y), b = std::min(x, y);
    if (op == '/' && (b == 0 || a % b != 0)) return -1;
    const int64_t c = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
    text += std::to_string(a) + op + std::to_string(b) + "=" + std::to_string(c);
    return c > max_value ? -1 : c;
  };
  std::vector<std::string> attempts;
  for (const auto& [i, j, rest] : {std::array{0, 1, 2}, std::array{0, 2, 1}, std::array{1, 2, 0}}) {
    for (const char first : std::string("+-*/")) {
      for (const char second : std::string("+-*/")) {
        std::string text;
        const int64_t value = equation(numbers[i], numbers[j], first, text);
        text += ",";
        if (value >= 0 && equation(value, numbers[rest], second, text) >= 0)
          attempts.push_back(text);
      }
    }
  }
  return attempts;
}

/// What the last attempt of a search comes to, as written.
std::string last_result(const std::string& response) {
  const size_t want = response.rfind(" want "), equals = response.rfind('=', want);
  return response.substr(equals + 1, want - equals - 1);
}

TEST_CASE("countdown: sorted problems give the largest number first") {
  Countdown task = small_task();
  task.options.sorted = true;
  task.prepare(0);
  for (int64_t i = 0; i < 500; ++i) {
    for (const Split split : {Split::train, Split::test}) {
      const Numbers numbers = read_gold(task.problem(split, i).gold).numbers;
      CHECK(std::is_sorted(numbers.rbegin(), numbers.rend()));
    }
  }
}

TEST_CASE("countdown: attempts follow each other in a fixed order") {
  for (const Numbers& numbers : {Numbers{6, 6, 1}, {3, 10, 4}, {9, 2, 2}, {1, 1, 1}, {19, 7, 20}}) {
    int64_t code = -1;
    for (const std::string& text : ordered_attempts(numbers, 50)) {
      const auto attempt = next_attempt(numbers, 50, code);
      REQUIRE(attempt.has_value());
      CHECK(attempt->text() == text);
    }
    CHECK_FALSE(next_attempt(numbers, 50, code).has_value());
  }
  std::set<std::string> trees;
  int64_t count = 0, at = -1;
  for (; const auto attempt = next_attempt({9, 7, 4, 2}, 50, at); ++count)
    trees.insert(attempt->tree);
  CHECK(count == 434);         // counted by a recursion in another language
  CHECK(trees.size() == 352);  // (9+7)-(4+2) comes twice: either sum may be first
  // Eight numbers have 26,011,238,400 codes. All 232,243,200 that begin with 40+40 are skipped at
  // once; one by one, this would take many seconds.
  const Numbers eight{40, 40, 40, 40, 40, 40, 40, 40};
  int64_t code = -1, last = -1;
  for (int i = 0; i < 1000; ++i) {
    const auto attempt = next_attempt(eight, 40, code);
    REQUIRE(attempt.has_value());
    std::string key;
    check_attempt(attempt->text(), eight, key);
    if (i == 0) CHECK(code == 232'289'329);
    CHECK(code > std::exchange(last, code));
  }
}

TEST_CASE("countdown: the base text is true, in order and as its settings say") {
  const Countdown task = small_task();
  const int64_t n = 6000;
  int64_t searches = 0, guesses = 0, guesses_right = 0, moved = 0, failures = 0, ended_early = 0,
          most = 0;
  std::map<char, int64_t> used;
  for (int64_t i = 0; i < n; ++i) {
    const Document document = task.document(i);
    CAPTURE(text(document));
    REQUIRE(document.prompt.ends_with("\n<think>"));
    const Problem problem{"", document_gold(text(document))};
    const Puzzle puzzle = read_gold(problem.gold);
    const std::string target = std::to_string(puzzle.target);
    const auto parts = split_text(document.response, "</think><answer>");
    REQUIRE(parts.size() == 2);
    const Grade grade = task.grade(problem, document.response, true);
    CHECK(grade.answered);
    const auto tallies = task.diagnose(problem, document.response);
    if (parts[0].empty()) {  // the numbers in any order, any operators between them
      ++guesses, guesses_right += grade.correct;
      const std::string guess = parts[1].substr(0, parts[1].find('<'));
      const Expression read = parse_expression(guess);
      CHECK(std::is_permutation(read.literals.begin(), read.literals.end(), puzzle.numbers.begin(),
                                puzzle.numbers.end()));
      CHECK(guess.find_first_of("()") == std::string::npos);
      moved += read.literals != puzzle.numbers;
      for (const char c : guess) ++used[c];
      CHECK(tallies[4].hits == 0);
      CHECK_FALSE(grade.reflected);
      continue;
    }
    REQUIRE(parts[0].starts_with(" try "));
    const auto attempts = split_text(parts[0].substr(5), " wait, try ");
    CHECK(grade.reflected == (attempts.size() > 1));
    const auto order = ordered_attempts(puzzle.numbers, task.options.value_max);
    const auto written = [&](size_t k) { return attempts[k].substr(0, attempts[k].find(' ')); };
    std::set<std::string> keys;
    size_t at = 0;
    for (size_t k = 0; k < attempts.size(); ++k) {
      for (std::string passed; order.at(at) != written(k); ++at, passed.clear()) {
        check_attempt(order[at], puzzle.numbers, passed);
        REQUIRE(keys.contains(passed));  // it computes the same as an earlier one
      }
      std::string key;
      const int64_t value = check_attempt(written(k), puzzle.numbers, key);
      const bool hit = std::to_string(value) == target, last = k + 1 == attempts.size();
      CHECK(attempts[k] == written(k) + " want " + target + (hit ? " yes." : " no."));
      CHECK(keys.insert(key).second);  // no attempt twice
      CHECK((!hit || last));           // the first right one ends the search
      failures += !hit;
    }
    CHECK(task.answer(problem, document.response) == last_result(document.response));
    ++searches, most = std::max<int64_t>(most, std::ssize(attempts));
    ended_early += !grade.correct && std::ssize(attempts) < task.options.max_attempts;
    for (const size_t t : {0, 1, 2}) CHECK(tallies[t].hits == tallies[t].trials);
    CHECK(tallies[3].hits == 0);
    CHECK(tallies[4].hits == std::ssize(attempts));
  }
  // Four standard deviations, from 6000 documents, 4800 guesses and 1200 searches.
  CHECK(std::abs(rate(searches, n) - 0.2) < 0.02);
  CHECK(searches + guesses == n);
  for (const char op : std::string("+-*/"))
    CHECK(std::abs(rate(used[op], 2 * guesses) - 0.25) < 0.018);
  CHECK(rate(guesses_right, guesses) > 0.02);
  CHECK(rate(guesses_right, guesses) < 0.10);
  CHECK(rate(moved, guesses) > 0.6);  // five orders of six, less those of equal numbers
  CHECK(std::abs(rate(ended_early, failures) - 0.1) < 0.015);  // 1 - go_on
  CHECK(most > 16);
  CHECK(text(task.document(7)) == text(small_task().document(7)));
  CHECK(text(task.document(7)) != text(small_task(1).document(7)));
}

TEST_CASE(
    "countdown: the fraction misjudged of the base text's checks is wrong, and a wrong attempt "
    "called right is the answer") {
  Countdown task = small_task();
  task.options.search_share = 1;
  task.options.misjudged = 0.2;
  std::array<Tally, 2> verdicts;  // right called right, wrong called wrong
  for (int64_t i = 0; i < 6000; ++i) {
    const Document document = task.document(i);
    const Problem problem{"", document_gold(text(document))};
    CHECK(task.answer(problem, document.response) == last_result(document.response));
    const auto tallies = task.diagnose(problem, document.response);
    CHECK(tallies[0].hits == tallies[0].trials);  // the arithmetic is right all the same
    for (size_t t = 0; t < 2; ++t) {
      verdicts[t].hits += tallies[1 + t].hits;
      verdicts[t].trials += tallies[1 + t].trials;
    }
    const size_t yes = document.response.find(" yes.");
    CHECK((yes == std::string::npos || document.response.substr(yes).starts_with(" yes.</think>")));
  }
  for (const Tally& verdict : verdicts) {  // four standard deviations of 1,000 attempts
    CHECK(verdict.trials > 1000);
    CHECK(std::abs(rate(verdict.hits, verdict.trials) - 0.8) < 0.05);
  }
}

TEST_CASE(
    "countdown: base text follows its settings to their ends, and is refused for long prompts") {
  Countdown task = small_task();
  task.options.search_share = 1;
  task.options.go_on = 0;
  for (int64_t i = 0; i < 20; ++i) CHECK(split_text(text(task.document(i)), " try ").size() == 2);
  task.options.go_on = 1;
  task.options.max_attempts = 1000;  // more than there are: every search ends solved
  for (int64_t i = 0; i < 200; ++i)
    CHECK(text(task.document(i)).find(" yes.</think>") != std::string::npos);
  task.options.max_attempts = 5;
  for (int64_t i = 0; i < 200; ++i) {
    const std::string document = text(task.document(i));
    const size_t attempts = split_text(document, " want ").size() - 1;
    CHECK((attempts == 5 || (attempts < 5 && document.find(" yes.") != std::string::npos)));
  }
  task.options.misjudged = 1;  // the right one is passed over, the first wrong one is the answer
  for (int64_t i = 0; i < 200; ++i) {
    const Document search = task.document(i);
    const auto tallies = task.diagnose({"", document_gold(text(search))}, search.response);
    CHECK(tallies[1].hits + tallies[2].hits == 0);
    CHECK(tallies[2].trials <= 1);
  }
  task.options.search_share = 0;
  for (int64_t i = 0; i < 20; ++i) CHECK(task.document(i).response.starts_with("</think><answer>"));
  task.options.prompt_template = Template::base;
  CHECK_THROWS_AS(task.document(0), std::invalid_argument);
}

TEST_CASE("countdown: the tiny vocabulary is dense and spells every document") {
  const Countdown task = small_task();
  const auto tokenizer = nlohmann::json::parse(task.tokenizer_json());
  std::map<std::string, int64_t> ids = tokenizer["model"]["vocab"];
  std::string characters;
  for (const auto& [text, id] : ids) characters += text == "Ċ" ? "\n" : text == "Ġ" ? " " : text;
  std::vector<std::string> words;
  int64_t special = 0;
  for (const auto& token : tokenizer["added_tokens"]) {
    words.push_back(token["content"]);
    ids[words.back()] = token["id"];
    special += token["special"] == true;
    CHECK((token["special"] == (words.back() == "<|endoftext|>")));
  }
  CHECK(special == 1);
  std::sort(words.begin(), words.end(),
            [](auto& a, auto& b) { return a.size() > b.size(); });  // longest first
  std::set<int64_t> dense;
  for (const auto& [text, id] : ids) dense.insert(id);
  CHECK(dense.size() == ids.size());
  CHECK(*dense.begin() == 0);
  CHECK(*dense.rbegin() == std::ssize(ids) - 1);
  CHECK(tokenizer["model"]["merges"].empty());
  for (int64_t i = 0; i < 300; ++i) {
    std::string rest = text(task.document(i));
    for (const std::string& word : words) {
      const auto pieces = split_text(rest, word);
      rest.clear();
      for (const std::string& piece : pieces) rest += piece;
    }
    CHECK(rest.find_first_not_of(characters) == std::string::npos);
    CHECK(rest.find(' ') == std::string::npos);  // every space is inside a word
  }
}

TEST_CASE("countdown: every setting has its own name with the task's prefix") {
  Countdown task;
  std::set<std::string> names;
  const Settings settings = task.settings();
  for (const Setting& setting : settings) {
    const bool read_by_pretrain_only = setting.section == "base text";
    CHECK((setting.section == "countdown" || read_by_pretrain_only));
    CHECK(setting.name.starts_with("countdown-"));
    CHECK(names.insert(setting.name).second);
  }
  settings.find("countdown-template").parse("short");
  settings.find("countdown-go-on").parse("0.25");
  CHECK(task.options.prompt_template == Template::short_form);
  CHECK(task.options.go_on == 0.25);
}

TEST_CASE(
    "multiplication: problems are right, the splits share none, and answers are compared as "
    "numbers") {
  const auto task = tiny_zero::make_task("multiplication");
  const auto settings = task->settings();
  for (const std::string digits : {"1", "3", "9"}) {
    settings.find("multiplication-digits").parse(digits);
    task->prepare(5);
    std::set<std::string> train;
    std::set<std::pair<int64_t, int64_t>> pairs;
    for (int64_t i = 0; i < 300; ++i)
      train.insert(task->problem(tiny_zero::Split::train, i).prompt);
    for (int64_t i = 0; i < 300; ++i) {
      const auto problem = task->problem(tiny_zero::Split::test, i);
      CHECK(!train.contains(problem.prompt));
      const size_t equation = problem.prompt.find("equation: ") + 10,
                   sign = problem.prompt.find(" * ");
      const int64_t a = std::stoll(problem.prompt.substr(equation)),
                    b = std::stoll(problem.prompt.substr(sign + 3));
      CHECK(a * b == std::stoll(problem.gold));
      if (i < task->size(tiny_zero::Split::test))
        CHECK(pairs.insert(std::minmax(a, b)).second);  // no pair twice
    }
  }
  settings.find("multiplication-digits").parse("3");
  task->prepare(0);
  CHECK(task->size(tiny_zero::Split::test) == 2048);
  CHECK(task->size(tiny_zero::Split::train) > 1'000'000'000);
  settings.find("multiplication-digits").parse("1");
  task->prepare(0);
  const int64_t size = task->size(tiny_zero::Split::test);
  CHECK(size > 0);
  CHECK(size < 55);  // unordered pairs of digits, of which a tenth or so
  CHECK(task->problem(tiny_zero::Split::test, size).prompt ==
        task->problem(tiny_zero::Split::test, 0).prompt);
  const tiny_zero::Problem problem{"", "1230"};
  const std::vector<std::tuple<std::string, double, bool>> cases{
      {"so</think><answer> 1,230 </answer>", 1.0, true},
      {"<answer>01230</answer>", 1.0, true},
      {"<answer>1231</answer>", 0.1, true},
      {"<answer>12 30.0</answer>", 0.1, false},
      {"<answer>-1230</answer>", 0.1, false},
      {"<answer></answer>", 0.1, false},
      {"1230", 0.0, false},
      {"<answer>1230</answer><answer>0</answer>", 0.1, true}};
  for (const auto& [response, score, answered] : cases) {
    CAPTURE(response);
    const auto grade = task->grade(problem, response, true);
    CHECK(grade.reward == score);
    CHECK(grade.correct == (score == 1.0));
    CHECK(grade.answered == answered);
  }
  CHECK(task->grade({"", "0"}, "<answer>000</answer>", true).correct);
}

TEST_CASE("multiplication: half of the factors have the most digits, a quarter one, two fewer") {
  const auto task = tiny_zero::make_task("multiplication");
  task->prepare(0);
  int64_t wide = 0, count = 0;  // three digits: 1/2 x 9/10 of all factors
  for (int64_t i = 0; i < 4000; ++i) {
    const std::string prompt = task->problem(tiny_zero::Split::train, i).prompt;
    const size_t at = prompt.find("equation: ") + 10, times = prompt.find(" * "),
                 end = prompt.find(" =\n");
    for (const size_t digits : {times - at, end - times - 3}) {
      wide += digits == 3;
      ++count;
    }
  }
  const double share = static_cast<double>(wide) / static_cast<double>(count);
  CAPTURE(share);
  CHECK(std::abs(share - 0.45) < 0.025);  // four standard deviations; equally often gives 0.3
}
