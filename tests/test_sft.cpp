// Fine-tuning on responses, sampling them from the task's problems, and choosing problems by their
// pass rates: whole commands that fit together.

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <vector>

#include "tests/workplace.h"

namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

std::string path_of(const std::string& name) { return (workplace() / name).string(); }

struct Result {
  int code;  // -1 if a signal ended it
  std::string output, errors;
};

Result tiny_zero(const std::string& arguments, const std::string& input = "") {
  std::ofstream(path_of("in")) << input;
  const std::string command = "exec " TINY_ZERO_BINARY " " + arguments + " <" + path_of("in") +
                              " >" + path_of("out") + " 2>" + path_of("err");
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(path_of("out")),
          read_file(path_of("err"))};
}

Result must(const std::string& arguments, const std::string& input = "") {
  const Result result = tiny_zero(arguments, input);
  CAPTURE(arguments);
  INFO(result.errors);
  REQUIRE(result.code == 0);
  return result;
}

std::vector<json> read_rows(const std::string& text) {
  std::vector<json> rows;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  return rows;
}

/// Sums of two digits as a task. Its solutions, from which the base model learns, are right half of
/// the time.
std::string task() {
  static const std::string flags = [] {
    std::ofstream file(path_of("sums.jsonl"));
    for (int said = 0; said < 4; ++said) {
      for (int i = 0; i < 64; ++i) {
        const int sum = i / 8 + i % 8, error = said % 2 == 0 ? said + 1 : 0;
        file << json{{"problem", std::to_string(i / 8) + "+" + std::to_string(i % 8)},
                     {"answer", sum},
                     {"solution", "\\boxed{" + std::to_string(sum + error) + "}"}}
             << '\n';
      }
    }
    return " --task math --math-template short --math-train-file " + path_of("sums.jsonl");
  }();
  return flags;
}

std::string at(const std::string& name) {
  return " --threads 1 --runs-dir " + path_of("runs") + " --name " + name;
}

const std::string& base() {
  static const std::string path = [] {
    must("pretrain" + at("base") + task() +
         " --layers 1 --hidden 32 --heads 2 --kv-heads 2 --ffn 64 --max-positions 64"
         " --pretrain-tokens 150000 --pretrain-batch-tokens 256 --pretrain-learning-rate 5e-3");
    return path_of("runs/base/model");
  }();
  return path;
}

const std::string kSampling = " --max-response-tokens 16 --threads 1";

/// Samples of the base model that are right, made once; the path of the file.
const std::string& right_responses() {
  static const std::string path = [] {
    std::ofstream(path_of("right.jsonl")) << must("generate --model " + base() + kSampling +
                                                  " --problems 192 --samples 8 --only-right")
                                                 .output;
    return path_of("right.jsonl");
  }();
  return path;
}

const std::string kSft = " --sft-epochs 4 --sft-batch 8 --learning-rate 1e-3 ";
std::string sft(const std::string& name, const std::string& data, const std::string& more = kSft) {
  return "sft --model " + base() + at(name) + " --data " + data + more;
}

std::vector<json> metrics(const std::string& name) {
  auto lines = read_rows(read_file(workplace() / "runs" / name / "metrics.jsonl"));
  for (auto& line : lines) line.erase("tokens_per_s");
  return lines;
}

std::string weights(const std::string& name) {
  return read_file(workplace() / "runs" / name / "model/model.safetensors");
}

double accuracy(const std::string& model) {
  const Result result = must("eval --model " + model + kSampling +
                             " --eval-problems 192 --split train --eval-samples 8 --json -");
  return json::parse(result.output)["accuracy"]["mean"];
}

}  // namespace

TEST_CASE("generate answers the training problems, and filters by pass rate and rightness") {
  const std::string command = "generate --model " + base() + kSampling + " --problems 40";
  const Result made = must(command + " --samples 8");
  const auto all = read_rows(made.output);
  std::map<int, std::vector<json>> problems;
  for (const auto& row : all) problems[row["problem"]].push_back(row);
  REQUIRE(problems.size() > 20);
  CHECK(all.size() == 8 * problems.size());
  CHECK(contains(made.errors, "kept " + std::to_string(all.size()) + " of "));
  std::set<json> distinct;  // prompt and response
  size_t some_right = 0, half = 0;
  for (const auto& [number, rows] : problems) {
    int right = 0;
    for (const auto& row : rows) {
      CHECK(row["prompt"] == rows[0]["prompt"]);
      CHECK(row["correct"].get<bool>() == (row["reward"] == 1));
      right += row["correct"].get<bool>() ? 1 : 0;
      if (row["correct"] && row["finished"])
        distinct.insert(json::array({row["prompt"], row["response"]}));
    }
    CHECK(rows[0]["pass_rate"] == right / 8.0);
    some_right += right > 0 ? 1 : 0;
    half += right >= 2 && right <= 4 ? 1 : 0;
  }
  REQUIRE(some_right < problems.size());
  REQUIRE((half > 0 && half < problems.size()));

  const auto right = read_rows(must(command + " --samples 8 --only-right").output);
  std::set<json> written;  // prompt and response
  for (const auto& row : right) {
    CHECK((row["correct"] && row["finished"]));
    CHECK(written.insert(json::array({row["prompt"], row["response"]})).second);  // each once
  }
  CHECK(written == distinct);
  const auto limited =
      must(command + " --samples 8 --min-pass-rate 0.25 --max-pass-rate 0.5").output;
  CHECK(read_rows(limited).size() == 8 * half);

  const auto cut = read_rows(
      must("generate --model " + base() + " --threads 1 --problems 9 --max-response-tokens 3")
          .output);
  CHECK(!cut.empty());
  for (const auto& row : cut) CHECK(!row["finished"].get<bool>());  // "\boxed{" is longer
}

TEST_CASE("sft on a model's own right responses makes it better [RFT]") {
  const double before = accuracy(base());
  must(sft("rft", right_responses(), " --sft-epochs 8 --sft-batch 8 --learning-rate 1e-3"));
  const auto lines = metrics("rft");
  CAPTURE(lines.size());
  CHECK(lines.back()["loss"].get<double>() < lines.front()["loss"].get<double>());
  const double after = accuracy(path_of("runs/rft"));  // and its task goes with it
  CAPTURE(before);
  CAPTURE(after);
  CHECK(after > before + 0.08);
  must("train --num-steps 1 --prompts-per-step 2 --group-size 2 --max-response-tokens 8" +
       at("after_sft") + task() + " --model " + path_of("runs/rft/model"));
}

TEST_CASE("the loss is the mean over the update's response tokens, the end token among them") {
  const std::vector<std::pair<std::string, std::string>> texts{
      {"1+2\n", "\\boxed{3}"}, {"what is it?\n", "4"}, {"7+7\n", "I say \\boxed{14}!"}};
  std::string data, ids_in;
  for (const auto& [prompt, response] : texts) {
    data += json{{"prompt", prompt}, {"response", response}}.dump() + "\n\n";
    for (const auto& text : {prompt, response}) ids_in += json{{"text", text}}.dump() + '\n';
  }
  const auto ids = read_rows(must("tokenize --model " + base(), ids_in).output);
  const json end = json::parse(read_file(base() + "/config.json"))["eos_token_id"];
  double sum = 0;
  size_t count = 0, read = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    json response = ids[2 * i + 1]["ids"];
    response.push_back(end);
    const json line{{"prompt_ids", ids[2 * i]["ids"]}, {"response_ids", response}};
    const auto scored = read_rows(must("score --threads 1 --model " + base(), line.dump()).output);
    for (const double log_prob : scored.at(0)["log_probs"]) {
      sum -= log_prob;
      ++count;
    }
    read += ids[2 * i]["ids"].size() + response.size() - 1;  // nothing follows the end token
  }
  std::ofstream(path_of("three.jsonl")) << data;
  for (const std::string tokens : {"1", "30", "4096"}) {  // 3 micro-batches, 2, and 1
    const std::string name = "three_" + tokens;
    must(sft(name, path_of("three.jsonl"), " --tokens-per-micro-batch " + tokens));
    const auto line = metrics(name).at(0);
    CHECK(metrics(name).size() == 1);
    CHECK(line["loss"].get<double>() ==
          doctest::Approx(sum / static_cast<double>(count)).epsilon(1e-5));
    CHECK(line["tokens"] == read);
    CHECK(line["grad_norm"].get<double>() ==
          doctest::Approx(metrics("three_1")[0]["grad_norm"].get<double>()).epsilon(1e-4));
  }
  // An end token that the text has already is not learnt twice.
  std::ofstream(path_of("ended.jsonl"))
      << json{{"prompt", "1"}, {"response", "2<|endoftext|>"}} << '\n';
  std::ofstream(path_of("open.jsonl")) << json{{"prompt", "1"}, {"response", "2"}} << '\n';
  must(sft("ended", path_of("ended.jsonl")));
  must(sft("open", path_of("open.jsonl")));
  CHECK(metrics("ended") == metrics("open"));
}

TEST_CASE("sft counts epochs, and its rate follows the schedule to the last update") {
  std::string data;
  for (const char* text : {"a", "b", "c", "d", "e"})
    data += json{{"prompt", text}, {"response", text}}.dump() + '\n';
  std::ofstream(path_of("five.jsonl")) << data;
  must(sft("five", path_of("five.jsonl"),
           " --sft-epochs 2 --sft-batch 3 --learning-rate 1e-3 --warmup-updates 2"
           " --schedule linear --final-learning-rate 1e-4"));
  const auto lines = metrics("five");
  REQUIRE(lines.size() == 4);  // 10 examples: 3, 3, 3 and 1
  const std::vector<double> rates{5e-4, 1e-3, 1e-3, 1e-4};
  const std::vector<int> tokens{6, 12, 18, 20};  // two that the model reads of each example
  for (size_t i = 0; i < rates.size(); ++i) {
    CHECK(lines[i]["lr"].get<double>() == doctest::Approx(rates[i]));
    CHECK(lines[i]["tokens"] == tokens[i]);
  }
  // One by one, without learning: each epoch has every example, in an order of its own.
  must(sft("orders", path_of("five.jsonl"), " --sft-epochs 2 --sft-batch 1 --learning-rate 0"));
  std::vector<double> losses[2];
  for (const auto& line : metrics("orders"))
    losses[line["step"] <= 5 ? 0 : 1].push_back(line["loss"].get<double>());
  CHECK(losses[0] != losses[1]);
  CHECK(std::set<double>(losses[0].begin(), losses[0].end()).size() == 5);
  for (auto& epoch : losses) std::sort(epoch.begin(), epoch.end());
  CHECK(losses[0] == losses[1]);
}

TEST_CASE("sft stopped and resumed equals straight sft, and wants the same data") {
  const std::string more = kSft + "--save-every 4 --schedule cosine --sft-epochs 12 ";
  must(sft("straight", right_responses(), more));
  const std::string copy = path_of("copy.jsonl");
  fs::copy_file(right_responses(), copy);
  const fs::path run = workplace() / "runs" / "stopped";
  const std::string command = "exec " TINY_ZERO_BINARY " " + sft("stopped", copy, more) + " >" +
                              path_of("out") + " 2>&1 & pid=$!; until [ $(cat " +
                              (run / "metrics.jsonl").string() +
                              " 2>/dev/null | wc -l) -ge 5 ]; do sleep 0.01; done; "
                              "kill -TERM $pid; wait $pid";
  const int status = std::system(("sh -c '" + command + "'").c_str());
  const std::string said = read_file(path_of("out"));
  CAPTURE(said);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM));
  REQUIRE(contains(said, "sft --resume"));
  REQUIRE(!fs::exists(run / "model"));
  REQUIRE(metrics("stopped").size() < metrics("straight").size());

  std::ofstream(copy, std::ios::app) << json{{"prompt", "1"}, {"response", "2"}} << '\n';
  const Result changed = tiny_zero("sft --resume" + at("stopped"));
  CHECK(changed.code == 1);
  CHECK(contains(changed.errors, "was saved with other data than sft finds now"));
  fs::copy_file(right_responses(), copy, fs::copy_options::overwrite_existing);
  const Result other = tiny_zero("sft --resume" + at("stopped") + " --data " + path_of("in"));
  CHECK(other.code == 1);
  CHECK(contains(other.errors, "makes another run"));
  must("sft --resume" + at("stopped"));
  CHECK((weights("stopped") == weights("straight")));
  CHECK(metrics("stopped") == metrics("straight"));
  CHECK(!weights("straight").empty());
  const Result again = tiny_zero(sft("straight", copy));
  CHECK(again.code == 1);
  CHECK(contains(again.errors, "exists already"));
}

TEST_CASE("data that cannot be learnt from are refused with their line") {
  const std::string good = R"({"prompt": "1", "response": "2"})"
                           "\n";
  const std::vector<std::pair<std::string, std::string>> mistakes{
      {"", "bad.jsonl is empty, want {\"prompt\", \"response\"} lines"},
      {good + R"({"prompt": "1"})", "bad.jsonl:2: the line.response: found null, want a string"},
      {good + "\n" + R"({"response": "1"})", "bad.jsonl:3: the line.prompt: found null"},
      {R"({"prompt": "1", "response": ""})",
       "bad.jsonl:1: the line.response: found \"\", want a text that is not empty"},
      {R"({"prompt": "", "response": "1"})", "the line.prompt: found \"\""},
      {R"({"prompt": "1", "response": ["2"]})", "found an array, want a string"},
      {good + "text", "bad.jsonl:2: "},
      {good + R"({"prompt": "1", "response": ")" + std::string(63, '1') + "\"}",
       "bad.jsonl:2: has 65 tokens with the end token, want at most the model's 64"}};
  for (const auto& [text, part] : mistakes) {
    CAPTURE(text);
    std::ofstream(path_of("bad.jsonl")) << text;
    const Result result = tiny_zero(sft("bad", path_of("bad.jsonl")));
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(contains(result.errors, part));
    CHECK(!fs::exists(workplace() / "runs" / "bad" / "metrics.jsonl"));
  }
  std::ofstream(path_of("bad.jsonl"))
      << json{{"prompt", "1"}, {"response", std::string(62, '1')}} << '\n';
  must(sft("bad", path_of("bad.jsonl")));  // 64 fit
  const std::vector<std::pair<std::string, std::string>> flags{
      {"sft --data x --runs-dir " + path_of("runs"), "model is empty"},
      {"sft --model " + base() + at("none"), "data is empty, want a file: --data FILE"},
      {sft("none", path_of("absent.jsonl")), "absent.jsonl"},
      {sft("none", path_of("three.jsonl"), " --group-size 2"), "--group-size has no effect in sft"},
      {"generate --problems 2 --prompt 1 --model " + base(), "--problems has no effect beside"},
      {"generate --problems 2 --problem 1 --model " + base(), "--problems has no effect beside"},
      {"generate --problems 2 --chat qwen --model " + base(), "--chat has no effect beside"},
      {"generate --only-right --model " + base(), "it needs problems > 0"},
      {"generate --min-pass-rate 0.5 --model " + base(), "it needs pass-rates"},
      {"train --max-pass-rate 0.5 --model " + base(), "it needs pass-rates"},
      {"generate --problems 1 --min-pass-rate 0.5 --max-pass-rate 0.4 --model " + base(),
       "min-pass-rate is above max-pass-rate"}};
  for (const auto& [arguments, part] : flags) {
    CAPTURE(arguments);
    const Result result = tiny_zero(arguments);
    CAPTURE(result.errors);
    CHECK(result.code == 1);
    CHECK(contains(result.errors, part));
  }
}

TEST_CASE("eval measures pass rates, train takes the problems that lie within the limits") {
  const std::string rates = path_of("rates.jsonl");
  const std::string command = "eval --model " + base() + kSampling + task() +
                              " --split train --eval-problems 192 --eval-samples 4 --pass-rates ";
  must(command + rates + " --responses " + path_of("responses.jsonl"));
  std::map<std::string, double> right;
  for (const auto& row : read_rows(read_file(path_of("responses.jsonl"))))
    right[row["prompt"]] += row["correct"].get<bool>() ? 0.25 : 0;
  const auto rows = read_rows(read_file(rates));
  REQUIRE(rows.size() == right.size());
  std::set<std::string> wanted;
  for (const auto& row : rows) {
    CHECK(row["samples"] == 4);
    CHECK(row["pass_rate"] == right.at(row["prompt"]));
    if (row["pass_rate"] >= 0.25 && row["pass_rate"] <= 0.5) wanted.insert(row["prompt"]);
  }
  REQUIRE(wanted.size() > 3);
  REQUIRE(wanted.size() < rows.size());
  const Result again = tiny_zero(command + rates);
  CHECK(again.code == 1);
  CHECK(contains(again.errors, "there already; eval writes a new file"));
  const Result same = tiny_zero(command + path_of("new") + " --json " + path_of("new"));
  CHECK(same.code == 1);
  CHECK(contains(same.errors, "two of json, responses and pass-rates are both"));

  const std::string training =
      task() + " --model " + base() + " --pass-rates " + rates +
      " --min-pass-rate 0.25 --max-pass-rate 0.5 --prompts-per-step 8 --group-size 2"
      " --samples-per-step 16 --max-response-tokens 8 --num-steps ";
  const std::string steps = std::to_string(wanted.size() / 8 + 1);  // all of them, some twice
  const Result trained = must("train" + at("chosen") + training + steps);
  CHECK(contains(trained.errors, std::to_string(wanted.size()) + " of " +
                                     std::to_string(rows.size()) + " problems chosen"));
  std::set<std::string> seen;
  for (const auto& row : read_rows(read_file(workplace() / "runs" / "chosen" / "samples.jsonl")))
    seen.insert(row["prompt"]);
  CHECK(seen == wanted);
  const Result other = tiny_zero("train --resume --max-pass-rate 0.75" + at("chosen"));
  CHECK(other.code == 1);
  CHECK(contains(other.errors, "makes another run"));
  const std::string all = read_file(rates), more = std::to_string(wanted.size() / 8 + 2);
  std::ofstream(rates) << all.substr(0, all.rfind("{\"problem"));
  const Result shorter = tiny_zero("train --resume --num-steps " + more + at("chosen"));
  CHECK(shorter.code == 1);
  CHECK(contains(shorter.errors, "is not what the run began with"));
  std::ofstream(rates) << all;
  must("train --resume --num-steps " + more + at("chosen"));
  const Result seed = tiny_zero("train --seed 1" + at("other_seed") + training + "1");
  CHECK(seed.code == 1);
  CHECK(contains(seed.errors, "with this seed, 1"));
}
