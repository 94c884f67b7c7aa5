// What goes in and out of the program: outputs that fail, inputs that are no text file or are made
// to do harm, lines that cannot be used.

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <sstream>

#include "tests/workplace.h"
#include "tiny_zero/files/json.h"

using namespace tiny_zero;
namespace fs = std::filesystem;

namespace {

const std::string kRecipe = TEST_DATA_DIR "/../../tasks/countdown/recipes/demo.conf";

std::string path_of(const std::string& name) { return (workplace() / name).string(); }

/// Writes a file of this name; its path.
std::string file(const std::string& name, const std::string& bytes) {
  std::ofstream(workplace() / name, std::ios::binary) << bytes;
  return path_of(name);
}

struct Result {
  int code;  // -1 if a signal ended it
  std::string output, errors;
};

/// Runs the program with `input` on its standard input.
/// @param output  where its standard output goes; "" returns it
Result run_program(const std::string& arguments, const std::string& input = "",
                   const std::string& output = "") {
  file("in", input);
  const std::string out = output.empty() ? path_of("out") : output;
  const std::string command = "exec " TINY_ZERO_BINARY " " + arguments + " <" + path_of("in") +
                              " >" + out + " 2>" + path_of("err");
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output.empty() ? read_file(out) : "",
          read_file(path_of("err"))};
}

std::vector<Json> lines_of(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

/// Options of every verb that has a model.
std::string common() { return " --recipe " + kRecipe + " --threads 1"; }

/// A tiny model, made at the first call.
const std::string& model() {
  static const std::string path = [] {
    const Result made = run_program("pretrain" + common() + " --runs-dir " + path_of("runs") +
                                    " --name base --layers 1 --hidden 32 --heads 2 --kv-heads 2 "
                                    "--ffn 32 --pretrain-tokens 1000");
    INFO(made.errors);
    REQUIRE(made.code == 0);
    return path_of("runs/base/model");
  }();
  return path;
}

std::string evaluation(const std::string& more) {
  return "eval --model " + model() + common() + " --eval-problems 2 --max-response-tokens 8 " +
         more;
}

const std::string kGzip("\x1f\x8b\x08\x00\x00\x00\x00\x00", 8);
const std::string kDeep = std::string(200'000, '[') + std::string(200'000, ']');

/// The deep value as the value of a key; objects recurse as arrays do.
std::string deep(const std::string& key) { return "{\"" + key + "\": " + kDeep + "}"; }

}  // namespace

TEST_CASE("a standard output that is full is an error, whatever the verb") {
  const std::string tokenizer = TEST_DATA_DIR "/tokenizer/gpt2", problem = R"({"problem": "a"})";
  const std::string run =
      " --prompts-per-step 2 --group-size 2 --max-response-tokens 4 --num-steps 1 --runs-dir " +
      path_of("runs") + " --model " + model() + common();
  const std::vector<std::pair<std::string, std::string>> verbs{
      {"tokenize --model " + tokenizer, R"({"text": "a"})"},
      {"tokenize --decode --model " + tokenizer, R"({"ids": [1]})"},
      {"grade", R"({"gold": "1,2=3", "response": "<answer>1+2</answer>"})"},
      {"score --model " + model() + common(), R"({"prompt": "1", "response": "2"})"},
      {"generate --max-response-tokens 4 --model " + model() + common(), R"({"prompt": "1"})"},
      {"generate --max-response-tokens 4 --prompt 1 --model " + model() + common(), ""},
      {"generate --max-response-tokens 4 --problem 1 --model " + model() + common(), ""},
      {"generate --max-response-tokens 4 --problems 2 --model " + model() + common(), ""},
      {"decontaminate --against " + file("against", problem), R"({"problem": "b"})"},
      {"sft --name full_sft --runs-dir " + path_of("runs") + " --model " + model() + " --data " +
           file("sft", R"({"prompt": "1", "response": "2"})"),
       ""},
      {evaluation(""), ""},
      {evaluation("--json -"), ""},
      {"train --name full" + run, ""},
      {"plan" + run, ""},
      {"export --model " + model() + " --output " + path_of("exported"), ""}};
  for (const auto& [arguments, input] : verbs) {
    CAPTURE(arguments);
    const Result result = run_program(arguments, input, "/dev/full");
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(contains(result.errors, "standard output cannot be written"));
  }
  CHECK(fs::exists(path_of("runs/full/checkpoints/step_1")));  // the work was done all the same
}

TEST_CASE("what is missing in a line, or is no text, is named") {
  for (const auto& [line, problem] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", "the line: found an array, want a string"},
           {R"({"gold": 5, "response": ""})", "gold: found 5, want a string"},
           {R"({"gold": "1,2=3"})", "candidate: found null, want a string"}}) {
    const Result result = run_program("grade", line);
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(contains(result.errors, "standard input, line 1: " + problem));
  }
}

TEST_CASE("help and version on a full output are errors, too") {
  for (const std::string arguments : {"--version", "--help", "train --help"}) {
    CAPTURE(arguments);
    CHECK(run_program(arguments, "", "/dev/full").code == 1);
  }
}

TEST_CASE("a pipe whose output is full stops reading") {
  const std::string command = "yes '{\"gold\": \"1,2=3\", \"response\": \"\"}' | timeout 60 " +
                              std::string(TINY_ZERO_BINARY) + " grade >/dev/full 2>" +
                              path_of("err");
  const int status = std::system(command.c_str());
  CHECK(WEXITSTATUS(status) == 1);  // 124 after a minute
}

TEST_CASE("eval refuses outputs before it evaluates, and keeps an old file until there is a new") {
  const std::string none = path_of("none/report.json"), old = file("old.json", "old");
  const std::string empty = path_of("no_model");
  fs::create_directories(empty);
  for (const std::string option : {"json", "responses"}) {
    CAPTURE(option);
    for (const auto& [path, part] : std::vector<std::pair<std::string, std::string>>{
             {none, "No such file or directory"}, {workplace().string(), "is a directory"}}) {
      const Result result = run_program("eval --model " + empty + " --" + option + " " + path);
      CHECK(result.code == 1);
      CHECK(contains(result.errors, path));
      CHECK(contains(result.errors, part));
      CHECK(!contains(result.errors, empty));  // which would be next
    }
    CHECK(run_program("eval --model " + empty + " --" + option + " " + old).code == 1);
    const Result both = run_program("eval --model " + empty + " --json " + old + " --responses " +
                                    (workplace() / "." / "old.json").string());
    CHECK(both.code == 1);
    CHECK(contains(both.errors, "two of json, responses and pass-rates are both"));
    CHECK(read_file(old) == "old");
    const Result full = run_program(evaluation("--" + option + " /dev/full"));
    CHECK(full.code == 1);
    CHECK(contains(full.errors, "/dev/full cannot be written: No space left on device"));
    CHECK(contains(full.output, "accuracy"));  // the figures were printed before
  }
  fs::create_symlink(old, path_of("link.json"));
  CHECK(run_program(evaluation("--json " + path_of("link.json"))).code == 0);
  CHECK(fs::is_symlink(path_of("link.json")));
  CHECK(Json::parse(read_file(old)).contains("accuracy"));
  CHECK(run_program(evaluation("--responses /dev/null --json /dev/null")).code == 0);
  for (const auto& entry : fs::directory_iterator(workplace()))
    CHECK(!contains(entry.path().string(), ".partial"));
}

TEST_CASE("a directory, a device and a compressed file are refused where text is read") {
  const std::string gzip = file("data.gz", kGzip);
  fs::create_directories(path_of("a/directory"));
  const auto model_with = [](const std::string& tokenizer) {  // in the place of its file
    fs::remove_all(path_of("linked"));
    fs::create_directories(path_of("linked"));
    fs::create_symlink(tokenizer, path_of("linked/tokenizer.json"));
    return path_of("linked");
  };
  for (const auto& [path, part] : std::vector<std::pair<std::string, std::string>>{
           {path_of("a/directory"), "it is a directory"},
           {"/dev/zero", "it is a device"},
           {gzip, "gunzip it first"},
           {path_of("missing"), "No such file"}}) {
    fs::remove_all(path_of("runs/odd"));
    fs::create_directories(path_of("runs/odd"));
    fs::create_symlink(path, path_of("runs/odd/metrics.jsonl"));
    for (const std::string& arguments :
         {"plan --recipe " + path, "grade --task math --math-train-file " + path,
          "grade --task math --math-test-file " + path, "grade --countdown-test-file " + path,
          "decontaminate --against " + path, "tokenize --model " + model_with(path),
          "plan --model " + model() + " --pass-rates " + path,
          "sft --name odd_sft --runs-dir " + path_of("runs") + " --model " + model() + " --data " +
              path,
          "report --name odd --runs-dir " + path_of("runs")}) {
      CAPTURE(arguments);
      const Result result = run_program(arguments);
      CAPTURE(result.errors);
      CHECK(result.code == 1);
      CHECK(contains(result.errors, part));
      CHECK(contains(result.errors, "; "));  // what wants it
    }
  }
  // Pipes may be read, and standard input that is none is no empty one.
  CHECK(std::system(
            ("echo layers = 3 | " TINY_ZERO_BINARY " grade --recipe /dev/stdin >" + path_of("out"))
                .c_str()) == 0);
  const int status = std::system(
      (TINY_ZERO_BINARY " grade <" + workplace().string() + " 2>" + path_of("err")).c_str());
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(contains(read_file(path_of("err")), "cannot be read"));
}

TEST_CASE("messages show control characters and do not end at a NUL byte") {
  CHECK(visible("a\nb\tc") == "a\nb\tc");
  CHECK(visible(std::string("\0|\x1b[31m|\x7f|\r", 11)) == "\\x00|\\x1b[31m|\\x7f|\\x0d");
  CHECK(visible("\u0085 \u00e9 \u4e2d \U0001f600") == "\\x85 \u00e9 \u4e2d \U0001f600");
  CHECK(visible("a\xff\xc3") == "a\uFFFD\uFFFD");
  const std::string odd("\x1b[31m\0end", 9);
  const auto mentions = [&](const std::string& arguments, const std::string& input = "") {
    const Result result = run_program(arguments, input);
    CAPTURE(arguments);
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(!contains(result.errors, "\x1b"));
    CHECK(!contains(result.errors, std::string(1, '\0')));
    return result.errors;
  };
  CHECK(contains(mentions("plan --recipe " + file("odd.conf", "layers = " + odd)), "NUL"));
  CHECK(contains(mentions("plan --recipe " + file("odd.conf", "\x1b[31m = 1")), "\\x1b[31m"));
  CHECK(contains(mentions("grade --task math --math-train-file " + file("odd.jsonl", odd)),
                 "found \\x1b[31m\\x00end, want an object"));
  CHECK(contains(mentions("grade --countdown-test-file " + file("odd.jsonl", odd)),
                 "found \\x1b[31m\\x00end, want an object"));
  CHECK(contains(mentions("grade", R"({"gold": "1\u001b\u0000", "response": ""})"),
                 "\"1\\x1b\\x00\", want numbers"));
  CHECK(contains(mentions("grade", odd), "not JSON"));
  fs::create_directories(path_of("odd_model"));
  file("odd_model/tokenizer.json", R"({"version": "a\u0000b\u001b"})");
  CHECK(contains(mentions("tokenize --model " + path_of("odd_model")), "want \"1.0\""));
}

TEST_CASE("the model's text is shown with its control characters made visible") {
  // A copy whose tokens for "+", "(" and ")" spell an escape and the two halves of a character; no
  // prompt has these.
  const std::string copy = path_of("escaping");
  fs::copy(model(), copy);
  Json tokenizer = read_json(copy + "/tokenizer.json", ""), vocab = Json::object();
  const std::map<std::string, std::string> spellings{
      {"+", "\u011b"}, {"(", "\u00c3"}, {")", "\u00a9"}};
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items())
    vocab[spellings.contains(token) ? spellings.at(token) : token] = id;
  REQUIRE(vocab.contains("\u011b"));
  REQUIRE(vocab.size() == tokenizer["model"]["vocab"].size());
  tokenizer["model"]["vocab"] = vocab;
  write_text(copy + "/tokenizer.json", tokenizer.dump());
  const std::string arguments =
      "generate --max-response-tokens 200 --temperature 3 --model " + copy + common();
  const Result problem = run_program(arguments + " --problem 0 --samples 4");
  CHECK(problem.code == 0);
  CHECK(contains(problem.output, "\\x1b"));
  CHECK(!contains(problem.output, "\x1b"));
  // As it is sampled it is the same text as in one piece, a character of two tokens included.
  std::string response, seeded;
  for (int seed = 0; seed < 50 && !(contains(response, "\x1b") && contains(response, "\uFFFD"));
       ++seed) {
    seeded = arguments + " --seed " + std::to_string(seed);
    const Result whole = run_program(seeded, R"({"prompt": "1"})");
    REQUIRE(whole.code == 0);
    response = lines_of(whole.output)[0]["response"];
  }
  REQUIRE(contains(response, "\x1b"));
  REQUIRE(contains(response, "\uFFFD"));
  const Result streamed = run_program(seeded + " --prompt 1 --samples 1");
  CHECK(streamed.output == "1" + visible(response) + "\n");

  fs::create_directories(path_of("runs/shown"));
  const Json figures = {{"accuracy", {{"mean", 0.5}}},
                        {"response_tokens_mean", 3},
                        {"rates", {{"reflects", {{"rate", 0.5}}}}}};
  const Json row = {{"reward", 0},
                    {"correct", false},
                    {"reflected", false},
                    {"prompt", "1 + 1"},
                    {"response", "\x1b[2J two"}};
  for (const std::string stage : {"before", "middle", "after"}) {
    file("runs/shown/" + stage + ".json", figures.dump());
    file("runs/shown/" + stage + ".jsonl", row.dump());
  }
  file("runs/shown/metrics.jsonl",
       R"({"accuracy": 0, "response_tokens_mean": 1, "reflection_rate": 0, "wall_s": 1, )"
       R"("peak_memory_bytes": 1})");
  const Result report = run_program("report --name shown --runs-dir " + path_of("runs"));
  CAPTURE(report.errors);
  CHECK(report.code == 0);
  CHECK(contains(report.output, "\\x1b[2J two"));
  CHECK(!contains(report.output, "\x1b"));
  fs::remove(path_of("runs/shown/curve.tsv"));
  fs::create_symlink("/dev/full", path_of("runs/shown/curve.tsv"));
  const Result full = run_program("report --name shown --runs-dir " + path_of("runs"));
  CHECK(full.code == 1);
  CHECK(contains(full.errors, "curve.tsv cannot be written: No space left"));
}

TEST_CASE("JSON nested 200,000 deep is refused by every reader") {
  fs::create_directories(path_of("runs/deep"));
  file("runs/deep/metrics.jsonl", deep("step"));
  std::string objects, ends(200'000, '}');
  for (int i = 0; i < 200'000; ++i) objects += "{\"a\":";
  const std::string against = file("against", R"({"problem": "a"})"),
                    rows = file("deep.jsonl", deep("problem")),
                    tokenizer = TEST_DATA_DIR "/tokenizer/gpt2";
  const auto model_with = [](const std::string& name, const std::string& bytes) {
    const std::string copy = path_of("deep_model");
    fs::remove_all(copy);
    fs::copy(model(), copy);
    fs::remove(copy + "/model.safetensors");
    if (name != "model.safetensors.index.json")
      fs::copy(model() + "/model.safetensors", copy + "/model.safetensors");
    file("deep_model/" + name, bytes);
    return copy;
  };
  const std::string header = deep("a");
  const uint64_t header_bytes = header.size();
  const std::string safetensors(reinterpret_cast<const char*>(&header_bytes), 8);
  const auto refused = [](const std::string& arguments, const std::string& input = "") {
    const Result result = run_program(arguments, input);
    CAPTURE(arguments);
    CAPTURE(result.errors.substr(0, 500));
    CHECK(result.code == 1);
    CHECK(result.errors.size() < 1000);
    return result.errors;
  };
  const std::vector<std::pair<std::string, std::string>> pipes{
      {"tokenize --model " + tokenizer, "text"},
      {"tokenize --decode --model " + tokenizer, "ids"},
      {"grade", "gold"},
      {"generate --model " + model() + common(), "prompt"},
      {"score --model " + model() + common(), "prompt_ids"},
      {"decontaminate --against " + against, "problem"}};
  for (const auto& [verb, key] : pipes) {
    CHECK(contains(refused(verb, deep(key)), "standard input, line 1: not JSON: nested too deep"));
    CHECK(contains(refused(verb, objects + "1" + ends), "nested too deep"));
    CHECK(contains(refused(verb, std::string(200'000, '[')), "nested too deep"));
  }
  CHECK(contains(refused("decontaminate --against " + rows), "nested too deep"));
  CHECK(contains(refused("plan --model " + model() + " --pass-rates " + rows), "nested too deep"));
  CHECK(contains(refused("sft --name deep_sft --runs-dir " + path_of("runs") + " --model " +
                         model() + " --data " + rows),
                 "nested too deep"));
  CHECK(
      contains(refused("grade --task math --math-train-file " + rows), "found {\"problem\": [[["));
  CHECK(contains(refused("grade --countdown-test-file " + rows), "found {\"problem\": [[["));
  CHECK(contains(refused("report --name deep --runs-dir " + path_of("runs")), "nested too deep"));
  for (const std::string name : {"config.json", "generation_config.json", "tokenizer.json"}) {
    CAPTURE(name);
    CHECK(contains(refused("score --model " + model_with(name, header)), "nested too deep"));
  }
  CHECK(contains(refused("score --model " + model_with("model.safetensors.index.json", header)),
                 "nested too deep"));
  CHECK(contains(refused("score --model " + model_with("model.safetensors", safetensors + header)),
                 "nested too deep"));
}

TEST_CASE("ids are whole numbers, not what they can be rounded to") {
  const std::string decode = "tokenize --decode --model " TEST_DATA_DIR "/tokenizer/gpt2",
                    score = "score --model " + model() + common();
  for (const std::string id : {"1.7", "1.0", "1e30", "-1", "18446744073709551616", "4294967297",
                               "18446744073709551615", "true", "\"1\"", "null", "[1]"}) {
    CAPTURE(id);
    const Result decoded = run_program(decode, "{\"ids\": [1, " + id + "]}");
    CHECK(decoded.code == 1);
    CHECK(contains(decoded.errors, "standard input, line 1: ids[1]: found "));
    CHECK(decoded.output.empty());
    const Result scored =
        run_program(score, "{\"prompt_ids\": [1], \"response_ids\": [" + id + "]}");
    CHECK(scored.code == 1);
    CHECK(contains(scored.errors, "response_ids[0]: found "));
  }
  CHECK(contains(run_program(decode, R"({"ids": 1})").errors, "ids: found 1, want an array"));
}

TEST_CASE("next_row gives the lines that are not blank, and refuses those that are too long") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 50; ++round) {
    std::string text;
    for (uint64_t n = random() % 8; n > 0; --n) {
      const size_t size = random() % 3 == 0 ? random() % 4 : 16380 + random() % 8;
      text += std::string(size, "a\0 \r"[random() % 4]) + (random() % 2 == 0 ? "\n" : "\n\n");
    }
    if (random() % 2 == 0 && !text.empty()) text.pop_back();
    std::istringstream in(text), plain(text);
    std::string line, wanted;
    int64_t number = 0, wanted_number = 0;
    while (std::getline(plain, wanted)) {
      ++wanted_number;
      if (wanted.find_first_not_of(" \t\r") == std::string::npos) continue;
      REQUIRE(next_row(in, line, number));
      CHECK((line == wanted));
      CHECK(number == wanted_number);
    }
    CHECK(!next_row(in, line, number));
  }
  const std::string longest(kMaxLineBytes, 'a');
  std::istringstream in(longest + "\n" + longest + "a\nb\n" + longest + "a");
  std::string line;
  int64_t number = 0;
  CHECK(next_row(in, line, number, "x"));
  CHECK((line == longest));
  CHECK_THROWS_WITH_AS(next_row(in, line, number, "x"), "x:2: is longer than 16 MiB",
                       std::invalid_argument);
  CHECK(next_row(in, line, number, "x"));  // the rest of the long line is gone
  CHECK(line == "b");
  CHECK(number == 3);
  CHECK_THROWS_AS(next_row(in, line, number, "x"), std::invalid_argument);
  CHECK(!next_row(in, line, number, "x"));

  const std::string rest(kMaxLineBytes, 'a');
  const Result result = run_program("grade --on-error null",
                                    "{\"gold\": \"" + rest + "\"}\n" +
                                        R"({"gold": "1,2=3", "response": "<answer>1+2</answer>"})");
  const auto rows = lines_of(result.output);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0]["error"] == "standard input, line 1: is longer than 16 MiB");
  CHECK(rows[1]["correct"] == true);
}

TEST_CASE("a bad line ends a pipe, or with on-error = null has an error in its place") {
  const std::string tokenizer = TEST_DATA_DIR "/tokenizer/gpt2",
                    against = file("against", R"({"problem": "a b c"})");
  struct Pipe {
    std::string arguments, good, bad;
  };
  const std::vector<Pipe> pipes{
      {"tokenize --model " + tokenizer, R"({"text": "a"})", R"({"txet": "a"})"},
      {"tokenize --decode --model " + tokenizer, R"({"ids": [1]})", R"({"ids": [1000000]})"},
      {"grade", R"({"gold": "1,2=3", "response": ""})", R"({"gold": "1", "response": ""})"},
      {"grade --task math", R"({"gold": "1", "candidate": "1"})", R"({"gold": 1})"},
      {"score --model " + model() + common(), R"({"prompt": "1", "response": "2"})",
       R"({"prompt": "1", "response": ""})"},
      {"generate --max-response-tokens 4 --model " + model() + common(), R"({"prompt": "1"})",
       R"({"prompt": "\u0000"})"},
      {"decontaminate --against " + against, R"({"problem": "b"})", R"({"text": "b"})"}};
  for (const auto& [arguments, good, bad] : pipes) {
    for (const std::string& line : {bad, std::string("no JSON"), std::string("7")}) {
      CAPTURE(arguments);
      CAPTURE(line);
      const std::string input = good + "\n\n" + line + "\n \n" + good + "\n";
      const Result stopped = run_program(arguments, input);
      CHECK(stopped.code == 1);
      CHECK(lines_of(stopped.output).size() == 1);
      CHECK(contains(stopped.errors, "standard input, line 3: "));
      const Result whole = run_program(arguments + " --on-error null", input);
      CAPTURE(whole.errors);
      CHECK(whole.code == 0);
      const auto rows = lines_of(whole.output);
      REQUIRE(rows.size() == 3);
      CHECK(rows[0] == lines_of(stopped.output)[0]);
      CHECK(rows[1].size() == 1);
      CHECK(rows[1]["error"].get<std::string>().starts_with("standard input, line 3: "));
      CHECK(rows[2].size() == rows[0].size());
      CHECK(contains(whole.errors, "1 line could not be used"));
    }
  }
  // A test problem that cannot be read is no reason to let its copies through.
  const std::string broken = file("broken", "{\"problem\": \"a\"}\nno JSON\n");
  const Result refused = run_program("decontaminate --on-error null --against " + broken);
  CHECK(refused.code == 1);
  CHECK(contains(refused.errors, broken + ", line 2: "));
  const Result counted = run_program("decontaminate --on-error null --against " + against,
                                     "{\"problem\": \"A, b C!\"}\nno JSON\n{\"problem\": \"b\"}\n");
  CHECK(counted.code == 0);
  CHECK(contains(counted.errors, "dropped 1 of 3 problems"));
}
