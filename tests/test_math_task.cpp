// The task "math": files, prompts, rewards, votes, and the verbs that read answers from a pipe.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tasks/math/grader.h"
#include "tasks/math/math.h"
#include "tiny_zero/files/json.h"

using namespace tiny_zero;
using namespace tiny_zero::math;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A file that is gone at the end of the test.
struct TempFile {
  explicit TempFile(const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
  ~TempFile() { fs::remove(path); }
  std::string path = [] {
    std::string name = (fs::temp_directory_path() / "math_XXXXXX").string();
    close(mkstemp(name.data()));
    return name;
  }();
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A row with this level, whose text and answer are the number.
std::string row(int number, int level, const std::string& subject = "Algebra") {
  return json{{"problem", "What is " + std::to_string(number) + "?"},
              {"answer", std::to_string(number)},
              {"level", level},
              {"subject", subject}}
             .dump() +
         "\n";
}

std::string rows(int first, int count, int level = 1) {
  std::string text;
  for (int i = first; i < first + count; ++i) text += row(i, level);
  return text;
}

std::vector<std::string> golds(const Math& task, Split split, int64_t first, int64_t count) {
  std::vector<std::string> result;
  for (int64_t i = first; i < first + count; ++i) result.push_back(task.problem(split, i).gold);
  return result;
}

std::set<std::string> as_set(const std::vector<std::string>& list) {
  return {list.begin(), list.end()};
}

/// What an action writes to standard error.
template <class Action>
std::string errors_of(const Action& action) {
  std::ostringstream log;
  auto* before = std::cerr.rdbuf(log.rdbuf());
  action();
  std::cerr.rdbuf(before);
  return log.str();
}

struct Result {
  int code;
  std::string output, errors;
};

Result tiny_zero_with(const std::string& arguments, const std::string& input) {
  const TempFile in(input), out(""), err("");
  const std::string command = std::string(TINY_ZERO_BINARY) + " " + arguments + " <" + in.path +
                              " >" + out.path + " 2>" + err.path;
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out.path), read_file(err.path)};
}

void check_row(const std::string& line, const std::string& problem, const std::string& answer,
               int64_t level, const std::string& subject) {
  CAPTURE(line);
  const Row row = read_row(line, "f:1");
  CHECK(row.problem == problem);
  CHECK(row.answer == answer);
  CHECK(row.level == level);
  CHECK(row.subject == subject);
}

}  // namespace

TEST_CASE("math: rows in our layout, in MATH's and in GSM8K's") {
  check_row(R"({"problem": "p", "answer": "\\frac12", "level": 4, "subject": "Algebra"})", "p",
            "\\frac12", 4, "Algebra");
  check_row(R"({"problem": "p", "level": "Level 3", "type": "Geometry",)"
            R"( "solution": "\\boxed{1}, so \\boxed{\\frac{2}{3}}."})",
            "p", "\\frac{2}{3}", 3, "Geometry");
  check_row(R"({"problem": "p", "level": "Level ?", "type": "Geometry", "solution": "\\fbox{7}"})",
            "p", "7", 0, "Geometry");
  check_row(R"({"question": "q", "answer": "48/2 = <<48/2=24>>24 clips\n#### 1,024"})", "q",
            "1,024", 0, "");
  check_row(R"({"problem": "p", "answer": 73, "level": null, "source": "AIME"})", "p", "73", 0, "");
  CHECK(read_row(R"({"problem": "p", "answer": "5", "solution": "\\boxed{6}"})", "f:1").answer ==
        "5");
}

TEST_CASE("math: a bad line stops with its location, what was found and what was wanted") {
  for (const char* line :
       {"{", "7", "[]", R"({"problem": "p"})", R"({"answer": "5"})",
        R"({"problem": "p", "solution": ""})", R"({"problem": ["p"], "answer": "5"})",
        R"({"problem": "p", "answer": ["5"]})", R"({"problem": "p", "answer": "5", "level": 6})",
        R"({"problem": "p", "answer": "5", "level": "hard"})",
        "{\"problem\": \"\xff\", \"answer\": \"5\"}"}) {
    const TempFile file(row(1, 1) + "\n" + line + "\n");
    Math task;
    task.options.train_file = file.path;
    std::string message;
    try {
      task.prepare(0);
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(message.find(file.path + ":3: found ") == 0);
    CHECK(message.find(visible(line) + ", want ") != std::string::npos);
  }
  Math task;
  task.options.train_file = "no/such/file";
  CHECK_THROWS_WITH_AS(task.prepare(0), doctest::Contains("no/such/file cannot be opened"),
                       std::invalid_argument);
}

TEST_CASE("math: a gold answer that the grader cannot read is named and left out [T28]") {
  const TempFile file(row(1, 1) + R"({"problem": "p", "answer": "\\frac{1}{0}"}
{"problem": "p", "answer": ""}
{"problem": "p", "solution": "There are $\\boxed{}$ primes."}
{"problem": "p", "solution": "no box"}
)" + row(2, 1));
  Math task;
  task.options.train_file = file.path;
  task.options.test_share = 0;
  const std::string f = "\n  " + file.path;
  CHECK(errors_of([&] { task.prepare(0); }) ==
        "math: left out, as the grader cannot read the right answer:" + f + ":2: \\frac{1}{0}" + f +
            ":3: " + f + ":4: " + f + ":5: \n");
  CHECK(as_set(golds(task, Split::train, 0, 20)) == std::set<std::string>{"1", "2"});
  CHECK_THROWS_WITH_AS(task.problem(Split::test, 0), doctest::Contains("math-test-file"),
                       std::invalid_argument);
}

TEST_CASE("math: the sample holds every subject and level, and its answers can be read") {
  Math task;
  CHECK(errors_of([&] { task.prepare(0); }) == "");
  std::map<std::string, int> tags;
  std::set<std::string> prompts;
  for (const Split split : {Split::train, Split::test}) {
    for (int64_t i = 0; i < task.size(split); ++i) {
      const Problem problem = task.problem(split, i);
      if (!prompts.insert(problem.prompt).second) continue;
      for (const auto& tag : problem.tags) ++tags[tag];
      CHECK(readable(problem.gold));
    }
  }
  CHECK(task.size(Split::train) + task.size(Split::test) == 60);
  CHECK(prompts.size() == 60);
  CHECK(task.size(Split::test) >= 10);
  CHECK(tags.size() == 12);  // 7 subjects, 5 levels
  for (const auto& [tag, count] : tags) CHECK(count >= 5);
}

TEST_CASE(
    "math: training rows are shuffled anew each epoch, by the seed; test rows keep their order") {
  const TempFile train(rows(0, 50)), test(rows(100, 7));
  Math task;
  task.options.train_file = train.path;
  task.options.test_file = test.path;
  task.prepare(3);
  const auto first = golds(task, Split::train, 0, 50), second = golds(task, Split::train, 50, 50);
  CHECK(as_set(first).size() == 50);
  CHECK(as_set(second) == as_set(first));
  CHECK(second != first);
  CHECK(golds(task, Split::test, 0, 8) ==
        std::vector<std::string>{"100", "101", "102", "103", "104", "105", "106", "100"});
  CHECK(task.size(Split::test) == 7);
  Math again = task;
  again.prepare(3);
  CHECK(golds(again, Split::train, 0, 50) == first);
  again.prepare(4);
  CHECK(golds(again, Split::train, 0, 50) != first);
}

TEST_CASE("math: no test problem stands in the training split") {
  const TempFile train(rows(0, 40)), test(rows(30, 20));
  Math task;
  task.options.train_file = train.path;
  task.options.test_file = test.path;
  CHECK(errors_of([&] { task.prepare(0); }).find("left out 10 training problems") !=
        std::string::npos);
  CHECK(task.size(Split::train) == 30);
  task.options.test_file = "";  // a share of the training file, the same whatever the seed
  task.prepare(0);
  const auto tested = as_set(golds(task, Split::test, 0, task.size(Split::test)));
  CHECK(task.size(Split::train) + task.size(Split::test) == 40);
  CHECK(tested.size() >= 3);
  for (const auto& gold : golds(task, Split::train, 0, 200)) CHECK_FALSE(tested.contains(gold));
  task.prepare(1);
  CHECK(as_set(golds(task, Split::test, 0, task.size(Split::test))) == tested);
}

TEST_CASE("math: filters by level, subject and count act on training problems only") {
  const TempFile train(rows(0, 10, 2) + rows(10, 10, 3) + rows(20, 10, 5) + row(30, 4, "Geometry") +
                       R"({"problem": "no level", "answer": "99"})");
  const TempFile test(rows(100, 5, 1));
  Math task;
  task.options.train_file = train.path;
  task.options.test_file = test.path;
  task.options.level_min = 3;
  task.options.level_max = 4;
  task.prepare(0);
  CHECK(task.size(Split::train) == 11);
  CHECK(task.size(Split::test) == 5);
  task.options.subject = "Geometry";
  task.prepare(0);
  CHECK(golds(task, Split::train, 0, 2) == std::vector<std::string>{"30", "30"});
  task.options = {.train_file = train.path, .test_file = test.path, .count = 6};
  task.prepare(0);
  const auto drawn = as_set(golds(task, Split::train, 0, 60));
  CHECK(drawn.size() == 6);
  task.prepare(1);
  CHECK(as_set(golds(task, Split::train, 0, 60)) != drawn);
  task.options = {.train_file = train.path, .test_file = test.path, .subject = "Poetry"};
  CHECK_THROWS_WITH_AS(task.prepare(0), doctest::Contains("no training problem is left"),
                       std::invalid_argument);
}

TEST_CASE("math: prompts") {
  const TempFile file(row(1, 1));
  Math task;
  task.options.train_file = file.path;
  task.options.test_share = 0;
  task.prepare(0);
  const auto prompt = [&](Template form) {
    task.options.prompt_template = form;
    return task.problem(Split::train, 0).prompt;
  };
  const std::string orz = prompt(Template::orz);
  CHECK(orz.find("A conversation between User and Assistant. The User asks a question") == 0);
  CHECK(
      orz.ends_with("extracted automatically by the \\boxed{} tag.\nThis is the problem:\nWhat is "
                    "1?\nAssistant: <think>"));
  CHECK(prompt(Template::qwen) ==
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n");
  CHECK(prompt(Template::plain).find("What is 1?\nPlease reason") == 0);
  CHECK(prompt(Template::short_form) == "What is 1?\n");
}

TEST_CASE("math: rewards of ORZ, R1-Zero and SimpleRL, and no answer apart from a wrong one") {
  const Problem problem{"", "\\frac{1}{2}"};
  const std::string right = "thought </think> <answer>so \\boxed{0.5}</answer>";
  const std::string wrong = "thought </think> <answer>so \\boxed{5}</answer>";
  const std::string untagged = "so \\boxed{0.5}", cut_off = "so \\boxed{0.", none = "I do not know";
  const auto scores = [&](const Options& options, bool finished) {
    Math task;
    task.options = options;
    std::vector<double> result;
    for (const auto& text : {right, wrong, untagged, cut_off, none}) {
      result.push_back(task.grade(problem, text, finished).reward);
    }
    return result;
  };
  using Scores = std::vector<double>;
  const Options orz{.extract = Extract::tags, .need_end = true};
  CHECK(scores(orz, true) == Scores{1, 0, 0, 0, 0});
  CHECK(scores(orz, false) == Scores{0, 0, 0, 0, 0});
  CHECK(scores({.format_score = 1}, true) == Scores{2, 1, 1, 0, 0});
  const Options simplerl{
      .prompt_template = Template::qwen, .right_score = 1, .wrong_score = -0.5, .none_score = -1};
  CHECK(scores(simplerl, true) == Scores{1, -0.5, 1, -1, -1});
  CHECK(scores(simplerl, false) == Scores{1, -0.5, 1, -1, -1});

  Math task;
  const auto graded = [&](const std::string& text) { return task.grade(problem, text, true); };
  CHECK(graded(wrong).answered);
  CHECK(graded(wrong).reason == "different");
  CHECK(graded("\\boxed{\\garbage}").answered);  // wrong, not missing
  CHECK_FALSE(graded("\\boxed{\\garbage}").correct);
  CHECK_FALSE(graded(cut_off).answered);
  CHECK_FALSE(graded(none).answered);
  CHECK(graded(none).reason == "no answer");
  CHECK_FALSE(graded(std::string("\xff\x00\\boxed{\xfe}", 11)).correct);
  CHECK(graded("5. Wait, no").reflected);
  CHECK_FALSE(graded("await").reflected);
}

TEST_CASE(
    "math: the form is each tag once, in order, with nothing behind; without tags a closed box") {
  Math task;
  const auto formed = [&](const std::string& text) {
    return task.grade({"", "5"}, text, true).formatted;
  };
  CHECK(formed("a</think> <answer>5</answer>\n"));
  CHECK_FALSE(formed("a <answer>5</answer>"));
  CHECK_FALSE(formed("a <answer>5</answer></think>"));
  CHECK_FALSE(formed("a</think><answer>5</answer><answer>5</answer>"));
  CHECK_FALSE(formed("<answer>4 a</think><answer>5</answer>"));
  CHECK_FALSE(formed("a</think><answer>5</answer> and so on"));
  CHECK_FALSE(formed("a</think><answer>5"));
  task.options.prompt_template = Template::qwen;
  CHECK(formed("so \\boxed{5}"));
  CHECK_FALSE(formed("so \\boxed{5"));
}

TEST_CASE("math: where the answer is looked for") {
  Math task;
  const auto answer = [&](Extract extract, const std::string& text) {
    task.options.extract = extract;
    return task.answer({}, text);
  };
  CHECK(answer(Extract::any, "\\boxed{3} <answer>\\boxed{4}</answer>") == "4");
  CHECK(answer(Extract::any, "\\boxed{3}") == "3");
  CHECK(answer(Extract::tags, "\\boxed{3}") == "");
  CHECK(answer(Extract::tags, "\\boxed{3} <answer>4</answer>") == "4");
  CHECK(answer(Extract::number, "3 clips, so $1,024.") == "1,024");
  CHECK(answer(Extract::number, "none") == "");
}

TEST_CASE("Countdown and MATH read one and the same last answer") {
  const Math task;
  const auto countdown = make_task("countdown");
  for (const std::string right :
       {"<answer>5</answer></answer>", "<answer>4</answer><answer>5</answer>",
        "<answer>4 <answer>5</answer></answer>", "<answer>5</answer> <answer>4"}) {
    CAPTURE(right);
    CHECK(task.grade({"", "5"}, right, true).correct);
    CHECK(countdown->grade({"", "5=5"}, right, true).correct);
    CHECK(task.answer({"", "5"}, right) == "5");
    CHECK(countdown->answer({"", "5=5"}, right) == "5");
  }
}

TEST_CASE("math: every response has the reward of its bare answer") {
  Math task;
  task.options.wrong_score = -0.5;
  CHECK(task.grade_answer({"", "10"}, "10.0").reward == 1);
  CHECK(task.grade_answer({"", "10"}, "11").reward == -0.5);
  CHECK(task.grade_answer({"", "10"}, "\\boxed").reason == "the answer cannot be read");
  CHECK(task.grade_answer({"", "\\oops{"}, "1").reason == "the right answer cannot be read");
}

TEST_CASE(
    "math: documents are training problems with their own solutions, spelled by the byte "
    "tokenizer") {
  const TempFile file(R"({"problem": "2+2?", "answer": "4", "solution": "so \\boxed{5}"})");
  Math task;
  task.options.train_file = file.path;
  task.options.test_share = 0;
  task.options.prompt_template = Template::short_form;
  task.prepare(0);
  CHECK(task.document(7).prompt == "2+2?\n");
  CHECK(task.document(7).response == "so \\boxed{5}");  // wrong as the file has it
  CHECK(task.problem(Split::train, 0).gold == "4");
  const TempFile bare(R"({"problem": "2+2?", "answer": "4"})");
  task.options.train_file = bare.path;
  task.prepare(0);
  CHECK(task.document(0).response == "\\boxed{4}");
  const auto tokenizer = json::parse(task.tokenizer_json());
  CHECK(tokenizer["model"]["vocab"].size() == 256);
  CHECK(tokenizer["added_tokens"][0]["content"] == "<|endoftext|>");
  CHECK(tokenizer["added_tokens"][0]["id"] == 256);
}

TEST_CASE("math: grade judges a line each, in order") {
  const std::string lines = R"({"gold": "\\frac{1}{2}", "candidate": "0.5"}
{"gold": "\\frac{1}{2}", "candidate": "0.51"}
{"gold": "5", "response": "first \\boxed{4}, then \\boxed{x=5}", "correct": false}
{"gold": "5", "response": "\\boxed{5"}
{"gold": "5", "candidate": ""}
{"gold": "\\nonsense{", "candidate": "\\nonsense{"}
{"gold": "5", "candidate": "\u0000\ufffd\ud83d\ude00"}
)";
  const Result result = tiny_zero_with("grade --task math", lines);
  INFO(result.errors);
  CHECK(result.code == 0);
  CHECK(result.output == R"({"correct":true,"extracted":"0.5","reason":"equal"}
{"correct":false,"extracted":"0.51","reason":"different"}
{"correct":true,"extracted":"x=5","reason":"equal"}
{"correct":false,"extracted":null,"reason":"no answer"}
{"correct":false,"extracted":null,"reason":"the answer cannot be read"}
{"correct":false,"extracted":"\\nonsense{","reason":"the right answer cannot be read"}
{"correct":false,"extracted":"\u0000�😀","reason":"the answer cannot be read"}
)");
  const Result cut =
      tiny_zero_with("grade --task math --math-need-end",
                     R"({"gold": "5", "response": "\\boxed{5}", "finished": false})");
  CHECK(cut.output ==
        "{\"correct\":false,\"extracted\":\"5\",\"reason\":\"the response was truncated\"}\n");
  const Result number =
      tiny_zero_with("grade --task math --math-extract number",
                     R"({"gold": "18", "response": "She makes 9 * 2 = $18 a day."})");
  CHECK(number.output == "{\"correct\":true,\"extracted\":\"18\",\"reason\":\"equal\"}\n");
  const Result countdown = tiny_zero_with(
      "grade --task countdown", R"({"gold": "2,3=6", "response": "<answer>2*3</answer>"})");
  CHECK(countdown.output == "{\"correct\":true,\"extracted\":\"6\",\"reason\":\"right\"}\n");
}

TEST_CASE("math: every recipe is understood") {
  for (const auto& recipe : fs::directory_iterator(TEST_DATA_DIR "/../../tasks/math/recipes")) {
    if (recipe.path().extension() != ".conf") continue;
    const bool own_file = recipe.path().filename() == "sums.conf";
    const Result result =
        tiny_zero_with("grade --task math --recipe " + recipe.path().string() +
                           (own_file ? " --math-train-file ''" : ""),
                       R"({"gold": "5", "response": "a</think><answer>\\boxed{5}</answer>"})");
    CHECK(result.errors == "");
    CHECK(result.output == "{\"correct\":true,\"extracted\":\"5\",\"reason\":\"equal\"}\n");
  }
}

TEST_CASE("math: grade ends at a line that it cannot use and names it") {
  for (const std::string bad :
       {"{", "7", "{\"gold\": \"5\"}", "{\"candidate\": \"5\"}",
        "{\"gold\": 5, \"candidate\": \"5\"}", "{\"gold\": \"5\", \"candidate\": \"\xff\"}"}) {
    const Result result = tiny_zero_with("grade --task math",
                                         "{\"gold\": \"5\", \"candidate\": \"5\"}\n" + bad + "\n");
    CAPTURE(bad);
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(result.output == "{\"correct\":true,\"extracted\":\"5\",\"reason\":\"equal\"}\n");
    CHECK(result.errors.find("standard input, line 2: ") != std::string::npos);
  }
}

TEST_CASE("decontaminate drops what shares ten words with a test problem, and says which") {
  const TempFile test(R"({"problem": "A farmer has ten cows, and each of the cows eats 3 bales."}
{"problem": "What is $2+3$?"}
)");
  const std::string same =
      R"({"problem":"Long ago a FARMER has ten cows and each of the (cows) died.","answer":"1"})";
  const std::string nine =
      R"({"problem":"Long ago a farmer has ten cows and each of the goats died.","answer":"2"})";
  const std::string short_same = R"({"question":"what is $23$","answer":"3"})";
  const std::string longer =
      R"({"question":"what is $2+3$ to the power of four times six","answer":"4"})";
  const std::string other = R"({"answer":"5","problem":"Größe"})";
  const Result result =
      tiny_zero_with("decontaminate --against " + test.path,
                     same + "\n" + nine + "\n" + short_same + "\n" + longer + "\n" + other + "\n");
  CHECK(result.code == 0);
  CHECK(result.output == nine + "\n" + longer + "\n" + other + "\n");
  CHECK(result.errors == "line 1 shares \"a farmer has ten cows and each of the cows\" with " +
                             test.path + ":1\nline 3 shares \"what is 23\" with " + test.path +
                             ":2\ndropped 2 of 5 problems\n");
  const Result bad =
      tiny_zero_with("decontaminate --against " + test.path, same + "\n{\"text\": \"x\"}\n");
  CHECK(bad.code == 1);
  CHECK(bad.errors.find("standard input, line 2: ") != std::string::npos);
  CHECK(tiny_zero_with("decontaminate --against no/such/file", "").errors.find("no/such/file") !=
        std::string::npos);
}
