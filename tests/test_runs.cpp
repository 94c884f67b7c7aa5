// Whole runs of the program: the same seed gives the same bytes, and no way of stopping a run
// changes where it ends.

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "tests/workplace.h"

namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;
using Files = std::map<std::string, std::string>;  // path -> bytes

const std::string kRecipe = TEST_DATA_DIR "/../../tasks/countdown/recipes/demo.conf";
const std::vector<std::string> kTimings{"rollout_tokens_per_s", "update_tokens_per_s", "step_s",
                                        "wall_s", "peak_memory_bytes"};

fs::path run_path(const std::string& name) { return workplace() / "runs" / name; }

std::vector<std::string> read_lines(const fs::path& path) {
  std::istringstream text(read_file(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

/// All but `lock`, which names the last process that wanted to write a run.
Files read_tree(const fs::path& directory) {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file() && entry.path().filename() != "lock")
      files[fs::relative(entry.path(), directory)] = read_file(entry.path());
  }
  return files;
}

struct Result {
  int code;
  std::string output;
};

Result tiny_zero(const std::string& arguments) {
  const fs::path log = workplace() / "output.txt";
  const int status = std::system(
      (std::string(TINY_ZERO_BINARY) + " " + arguments + " >" + log.string() + " 2>&1").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(log)};
}

/// Starts the program, sends it a signal once `file` has so many lines, and waits for its end.
/// @return its wait status
int stop_at(const std::string& arguments, const fs::path& file, size_t lines, int signal,
            std::string& output) {
  const fs::path log = workplace() / "stopped.txt";
  const std::string command =
      "exec " + std::string(TINY_ZERO_BINARY) + " " + arguments + " >" + log.string() + " 2>&1";
  const pid_t child = fork();
  if (child == 0) {
    for (const int ignored : {SIGINT, SIGTERM}) ::signal(ignored, SIG_DFL);  // in a background job
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  bool ended = false;
  while (read_lines(file).size() < lines && !ended) {
    ended = waitpid(child, &status, WNOHANG) == child;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (!ended) {
    kill(child, signal);
    waitpid(child, &status, 0);
  }
  output = read_file(log);
  return status;
}

/// Options that every verb gets, and those of the verbs that work in a run's directory.
std::string common() { return " --recipe " + kRecipe + " --threads 1"; }
std::string in_runs() { return common() + " --runs-dir " + (workplace() / "runs").string(); }

std::string pretraining(const std::string& name) {
  return "pretrain" + in_runs() + " --name " + name +
         " --layers 1 --hidden 32 --heads 2 --kv-heads 2 --ffn 32" +
         " --pretrain-batch-tokens 512 --pretrain-tokens 40000";
}

const std::string& base_model() {
  static const std::string path = [] {
    const Result made = tiny_zero(pretraining("base"));
    INFO(made.output);
    REQUIRE(made.code == 0);
    return (run_path("base") / "model").string();
  }();
  return path;
}

constexpr int kSteps = 32;  // enough to be stopped in between
std::string training(const std::string& name, const std::string& more, int steps = kSteps) {
  return "train --model " + base_model() + in_runs() + " --name " + name + " --num-steps " +
         std::to_string(steps) +
         " --save-every 5 --prompts-per-step 4 --group-size 2 --max-response-tokens 16 "
         "--samples-per-step 3" +
         " --learning-rate 1e-3 " + more;
}

// The untrained model earns no reward: entropy, KL and the critic's random head keep both
// algorithms moving.
const std::string kGrpo =
    "--compute-type float32 --entropy-coef 0.01 --kl loss-k3 --reference-every 4 --epochs 2 "
    "--mini-batches 2 --schedule "
    "constant";
const std::string kPpo =
    "--algorithm ppo --critic separate --critic-head orz --lambda 0.9 --mini-batches 2 "
    "--critic-mini-batches 2"
    " --critic-learning-rate 1e-3 --dynamic-sampling --schedule linear";
const std::string kPrime =
    "--algorithm prime --prime-learning-rate 1e-3 --epochs 2 --mini-batches 2 --schedule linear";

/// The metrics without what a clock or the system measured.
std::vector<json> metrics(const std::string& name) {
  std::vector<json> lines;
  for (const auto& line : read_lines(run_path(name) / "metrics.jsonl")) {
    lines.push_back(json::parse(line));
    for (const auto& timing : kTimings) lines.back().erase(timing);
  }
  return lines;
}

void check_same(const std::string& name, const std::string& expected) {
  CAPTURE(name);
  CHECK((metrics(name) == metrics(expected)));  // brackets: doctest need not print it all
  CHECK(metrics(name).size() == kSteps);
  CHECK((read_file(run_path(name) / "samples.jsonl") ==
         read_file(run_path(expected) / "samples.jsonl")));
  const std::string last = "checkpoints/step_" + std::to_string(kSteps);
  REQUIRE(fs::exists(run_path(name) / last));
  Files files = read_tree(run_path(name) / last), wanted = read_tree(run_path(expected) / last);
  json state = json::parse(files.at("state.json")),
       wanted_state = json::parse(wanted.at("state.json"));
  CHECK(state["step"] == wanted_state["step"]);
  CHECK(state["cursor"] == wanted_state["cursor"]);
  files.erase("state.json");  // it counts seconds and the bytes of the timings
  wanted.erase("state.json");
  CHECK(files.size() >= 4);
  for (const auto& [path, bytes] : wanted) {
    CAPTURE(path);
    CHECK((files.contains(path) && files[path] == bytes));
  }
  CHECK(files.size() == wanted.size());
}

std::string short_name(const std::string& algorithm) {
  return algorithm == kPpo ? "ppo" : algorithm == kPrime ? "prime" : "grpo";
}

/// A run without interruption, made once; its name.
std::string straight(const std::string& algorithm) {
  static std::set<std::string> made;
  const std::string name = "straight_" + short_name(algorithm);
  if (made.insert(name).second) {
    const Result result = tiny_zero(training(name, algorithm));
    INFO(result.output);
    REQUIRE(result.code == 0);
  }
  return name;
}

Result resume(const std::string& name, int steps = kSteps, const std::string& more = "") {
  return tiny_zero("train --resume" + (" --runs-dir " + (workplace() / "runs").string()) +
                   " --name " + name + " --num-steps " + std::to_string(steps) + " " + more);
}

/// Steps of the lines of samples.jsonl, 3 of each step unless the settings say otherwise.
std::vector<int> sampled_steps(const std::string& name) {
  std::vector<int> steps;
  for (const auto& line : read_lines(run_path(name) / "samples.jsonl"))
    steps.push_back(json::parse(line)["step"]);
  return steps;
}

/// A run of 10 steps with checkpoints after 5 and 10, made once and copied to this name.
void make_ten_steps(const std::string& name) {
  static const Result made = tiny_zero(training("ten", kGrpo, 10));
  INFO(made.output);
  REQUIRE(made.code == 0);
  fs::copy(run_path("ten"), run_path(name), fs::copy_options::recursive);
}

}  // namespace

TEST_CASE("the same seed gives the same run, byte for byte, and another seed another") {
  const std::string first = straight(kGrpo);
  REQUIRE(tiny_zero(training("again", kGrpo)).code == 0);
  check_same("again", first);
  REQUIRE(tiny_zero(training("other_seed", kGrpo + " --seed 1", 2)).code == 0);
  CHECK(metrics("other_seed")[1] != metrics(first)[1]);
  const auto lines = metrics(first);
  CHECK(lines[0]["entropy"] != lines[kSteps - 1]["entropy"]);  // the weights do move
}

TEST_CASE("a run stopped after 7 steps and resumed equals a straight one [T17]") {
  for (const std::string& algorithm : {kGrpo, kPpo, kPrime}) {
    const std::string name = "resumed_" + short_name(algorithm);
    // A schedule looks at the last step, so this run must know it: it is stopped, not short.
    std::string output;
    const int status =
        stop_at(training(name, algorithm), run_path(name) / "metrics.jsonl", 7, SIGTERM, output);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGTERM));
    REQUIRE(read_lines(run_path(name) / "metrics.jsonl").size() < kSteps);
    CHECK(resume(name).code == 0);
    check_same(name, straight(algorithm));
  }
  REQUIRE(tiny_zero(training("short", kGrpo, 7)).code == 0);
  CHECK(resume("short").code == 0);
  check_same("short", straight(kGrpo));
  CHECK(resume("short").code == 0);  // nothing is left to do
  check_same("short", straight(kGrpo));
}

TEST_CASE(
    "a killed run goes on from its last checkpoint, past a half-written one, and ends the same") {
  std::string output;
  const fs::path log = run_path("killed") / "metrics.jsonl";
  const int status = stop_at(training("killed", kGrpo), log, 8, SIGKILL, output);
  REQUIRE(WIFSIGNALED(status));  // not at its end already
  CHECK(fs::exists(run_path("killed") / "checkpoints" / "step_5"));
  std::ofstream(log, std::ios::app) << "{\"step\": 8, \"rew";  // a line cut in the middle
  fs::create_directories(run_path("killed") / "checkpoints" / "step_9.partial" / "model");
  std::ofstream(run_path("killed") / "checkpoints" / "step_9.partial" / "state.json")
      << "{\"step\": ";
  const Result resumed = resume("killed");
  CAPTURE(resumed.output);
  CHECK(resumed.code == 0);
  check_same("killed", straight(kGrpo));
}

TEST_CASE(
    "Ctrl-C saves, exits 130 and prints the command that continues, also before the first step") {
  const std::vector<std::pair<std::string, std::string>> moments{
      {"stopped", "metrics.jsonl"}, {"stopped_early", "settings.conf"}};
  for (const auto& [name, file] : moments) {
    CAPTURE(name);
    std::string output;
    const int status = stop_at(training(name, kGrpo), run_path(name) / file, 3, SIGINT, output);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT));
    REQUIRE(read_lines(run_path(name) / "metrics.jsonl").size() < kSteps);
    const size_t command = output.find("tiny_zero train --resume");
    REQUIRE(command != std::string::npos);
    const size_t verb = command + std::string("tiny_zero ").size();
    CHECK(tiny_zero(output.substr(verb, output.find('\n', verb) - verb)).code == 0);
    check_same(name, straight(kGrpo));
  }
}

TEST_CASE("a run that a process writes is closed to others, which name it, and stays whole") {
  std::vector<Result> others;
  std::string output, process;
  const std::string arguments = training("busy", kGrpo);
  std::thread intruder([&] {
    while (!fs::exists(run_path("busy") / "checkpoints" / "step_5"))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    process = read_file(run_path("busy") / "lock");
    process = process.substr(0, process.find('\n'));
    pid_t writer = 0;
    std::sscanf(process.c_str(), "process %d", &writer);
    if (writer > 0) kill(writer, SIGSTOP);  // so that it is still there when the others have ended
    for (const std::string& more : {std::string(), std::string(" --resume")})
      others.push_back(tiny_zero(arguments + more));
    others.push_back(tiny_zero("plan --resume --name busy" + in_runs()));  // only reads
    if (writer > 0) kill(writer, SIGCONT);
    std::ofstream(workplace() / "asked") << "\n";
  });
  stop_at(arguments, workplace() / "asked", 1, SIGTERM, output);
  intruder.join();
  REQUIRE(others.size() == 3);
  REQUIRE(process.starts_with("process "));
  for (int i = 0; i < 2; ++i) {
    CAPTURE(others[i].output);
    CHECK(others[i].code == 1);
    CHECK(contains(others[i].output, "busy is in use by " + process));
    CHECK(contains(others[i].output, "--name"));
  }
  CAPTURE(others[2].output);
  CHECK(others[2].code == 0);
  CHECK(contains(others[2].output, "peak"));
  CHECK(resume("busy").code == 0);
  check_same("busy", straight(kGrpo));
}

TEST_CASE("a run killed before its first checkpoint, or failed at the start, starts afresh") {
  std::string output;
  const int status = stop_at(training("early", kGrpo + " --save-every 100"),
                             run_path("early") / "metrics.jsonl", 2, SIGKILL, output);
  REQUIRE(WIFSIGNALED(status));
  const Result resumed = resume("early");
  CHECK(resumed.code == 1);
  CHECK(contains(resumed.output, "no checkpoint to resume; leave --resume out to start it afresh"));
  const Result planned = tiny_zero("plan --resume --name early" + common());
  CHECK(planned.code == 1);
  CHECK(contains(planned.output, "no checkpoint to resume"));
  CHECK(tiny_zero(training("early", kGrpo)).code == 0);
  check_same("early", straight(kGrpo));

  const Result too_long = tiny_zero(training("failed", "--max-response-tokens 5000", 1));
  CHECK(too_long.code == 1);
  CHECK(contains(too_long.output, "max-response-tokens"));
  CHECK(resume("failed").code == 1);
  CHECK(tiny_zero(training("failed", "", 1)).code == 0);

  const std::string slow = pretraining("base_killed") + " --pretrain-tokens 4000000";
  stop_at(slow, run_path("base_killed") / "metrics.jsonl", 1, SIGKILL, output);
  CHECK(tiny_zero(pretraining("base_killed")).code == 0);
  base_model();
  CHECK((read_tree(run_path("base_killed") / "model") == read_tree(run_path("base") / "model")));
  const Result again = tiny_zero(pretraining("base_killed"));  // it has a model and no checkpoint
  CHECK(again.code == 1);
  CHECK(contains(again.output, "another --name"));
}

TEST_CASE("what a resumption changes is printed, recorded and kept by the next one") {
  REQUIRE(tiny_zero(training("changed", "", 2)).code == 0);
  const Result changed =
      resume("changed", 4, "--samples-per-step 1 --group-size 4 --learning-rate 0.001");
  CHECK(changed.code == 0);
  const std::string lines =
      "# from step_2 on\nsamples-per-step = 1  # was 3\nnum-steps = 4  # was 2\n"
      "group-size = 4  # was 2\n";
  CHECK(contains(changed.output, lines));
  const std::string at = " --runs-dir " + (workplace() / "runs").string() + " --name changed";
  const std::string recorded = read_file(run_path("changed") / "settings.conf");
  CHECK(recorded.ends_with(lines));
  CHECK(tiny_zero("train --resume --num-steps 6" + at).code == 0);
  CHECK(read_file(run_path("changed") / "settings.conf") ==
        recorded + "# from step_4 on\nnum-steps = 6  # was 4\n");
  CHECK(sampled_steps("changed") == std::vector<int>{0, 0, 0, 1, 1, 1, 2, 3, 4, 5});

  // The whole command again, with --resume: its flags count, its recipe does not.
  const std::string recipe = (workplace() / "other.conf").string();
  std::ofstream(recipe) << "kl = loss-k2\nsamples-per-step = 9\nnum-steps = 1000\ngamma = 1\n";
  const Result recipe_too = tiny_zero("train --resume --num-steps 7 --recipe " + recipe + at);
  CHECK(recipe_too.code == 0);
  CHECK(contains(recipe_too.output, "keeps samples-per-step = 1; " + recipe + " says 9"));
  CHECK(contains(recipe_too.output, "keeps kl = none; " + recipe + " says loss-k2"));
  for (const std::string quiet : {"keeps num-steps", "keeps gamma"})
    CHECK(!contains(recipe_too.output, quiet));
  CHECK(sampled_steps("changed").size() == 11);
  const std::string before = read_file(run_path("changed") / "settings.conf");
  const Result same =
      tiny_zero(training("changed", "--resume --group-size 4 --samples-per-step 1", 7));
  CHECK(same.code == 0);
  CHECK(!contains(same.output, "keeps "));
  CHECK(read_file(run_path("changed") / "settings.conf") == before);
}

TEST_CASE("what would make another run of it is refused on --resume, under a new name it runs") {
  REQUIRE(tiny_zero(training("same", "", 1)).code == 0);
  const std::string other = (workplace() / "other_base").string();
  fs::copy(base_model(), other);
  const Files before = read_tree(run_path("same"));
  const std::vector<std::pair<std::string, std::string>> changes{
      {"--seed 1", "seed is \"0\""},
      {"--model " + other, "model is \"" + base_model()},
      {"--task math", "task is"},
      {"--algorithm ppo", "algorithm is \"grpo\""},
      {"--countdown-count-max 6", "count-max"}};
  for (const auto& [change, part] : changes) {
    CAPTURE(change);
    const Result refused = resume("same", 2, change);
    CAPTURE(refused.output);
    CHECK(refused.code == 1);
    CHECK(contains(refused.output, part));
    CHECK(contains(refused.output, "another --name"));
  }
  CHECK((read_tree(run_path("same")) == before));
  const Result accepted = resume("same", 2, "--seed 0 --model " + base_model() + "/../model");
  CHECK(accepted.code == 0);
  fs::rename(run_path("same"), run_path("renamed"));  // a name is no part of what a run is
  CHECK(resume("renamed", 3).code == 0);
  CHECK(metrics("renamed").size() == 3);
  CHECK(!fs::exists(run_path("same")));
}

TEST_CASE(
    "a flipped bit in the newest checkpoint is found, and the way out that is printed works") {
  for (const std::string file :
       {"model/model.safetensors", "model_optimizer.safetensors", "model/tokenizer.json"}) {
    CAPTURE(file);
    const std::string name = "flipped_" + std::to_string(file.size());
    make_ten_steps(name);
    const fs::path damaged = run_path(name) / "checkpoints" / "step_10" / file;
    std::string bytes = read_file(damaged);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
    std::ofstream(damaged, std::ios::binary) << bytes;
    const Files before = read_tree(run_path(name));
    const Result refused = resume(name, 12);
    CAPTURE(refused.output);
    CHECK(refused.code == 1);
    CHECK(contains(refused.output, damaged.string() + " is damaged"));
    CHECK(contains(refused.output, "step_5 is sound"));
    CHECK((read_tree(run_path(name)) == before));
    const size_t command = refused.output.find("mv ");
    REQUIRE(command != std::string::npos);
    REQUIRE(std::system(refused.output.substr(command).c_str()) == 0);
    CHECK(resume(name, 10).code == 0);
    CHECK((metrics(name) == metrics("ten")));
    CHECK(fs::exists(run_path(name) / "checkpoints" / "step_10.damaged"));
  }
}

TEST_CASE("a log that is shorter than the checkpoint says is refused, a missing one begins anew") {
  make_ten_steps("cut");
  const fs::path log = run_path("cut") / "metrics.jsonl",
                 samples = run_path("cut") / "samples.jsonl";
  fs::resize_file(log, 0);
  std::ofstream(samples, std::ios::app) << "{\"step\": 11}\n";
  const Files before = read_tree(run_path("cut"));
  const Result refused = resume("cut", 12);
  CHECK(refused.code == 1);
  CHECK(contains(refused.output, "metrics.jsonl is shorter than at"));
  CHECK(contains(refused.output, "move it away"));
  CHECK((read_tree(run_path("cut")) == before));
  fs::rename(log, log.string() + ".old");
  const Result anew = resume("cut", 12);
  CHECK(anew.code == 0);
  CHECK(contains(anew.output, "metrics.jsonl is missing"));
  REQUIRE(metrics("cut").size() == 2);
  CHECK(metrics("cut")[0]["step"] == 10);
  CHECK(sampled_steps("cut").size() == 36);
}

TEST_CASE("a user's own files among the checkpoints survive, and a run goes on past them") {
  make_ten_steps("visited");
  const fs::path all = run_path("visited") / "checkpoints";
  fs::copy(all / "step_5", all / "step_1_keep_this", fs::copy_options::recursive);
  const Files kept = read_tree(all / "step_1_keep_this");
  for (const std::string name : {"step_best", "step_15"}) fs::create_directory(all / name);
  const Result resumed = resume("visited", 22);
  CAPTURE(resumed.output);
  CHECK(resumed.code == 0);
  CHECK(contains(resumed.output, "step_15"));
  CHECK((read_tree(all / "step_1_keep_this") == kept));
  CHECK(fs::exists(all / "step_best"));
  CHECK(fs::is_empty(all / "step_15.kept"));
  CHECK(fs::exists(all / "step_20"));
  CHECK(fs::exists(all / "step_22"));
  for (const std::string old : {"step_5", "step_10", "step_15"}) CHECK(!fs::exists(all / old));
  const auto all_steps = metrics(straight(kGrpo));
  CHECK((metrics("visited") == std::vector(all_steps.begin(), all_steps.begin() + 22)));
}

TEST_CASE("the command that continues a run is printed for the shell, whatever the names") {
  const fs::path runs = workplace() / "it's in here";
  const std::string arguments = training("x", "") + " --runs-dir '" +
                                (workplace() / "it'\\''s in here").string() +
                                "' --name '$two words'";
  std::string output;
  stop_at(arguments, runs / "$two words" / "metrics.jsonl", 2, SIGINT, output);
  const std::string before = "continue with: ";
  const size_t command = output.find(before);
  REQUIRE(command != std::string::npos);
  const std::string line =
      output.substr(command + before.size(), output.find('\n', command) - command - before.size());
  CAPTURE(line);
  CHECK(std::system((line + " >/dev/null").c_str()) == 0);
  CHECK(read_lines(runs / "$two words" / "metrics.jsonl").size() == kSteps);
}

TEST_CASE("pretraining stopped and resumed equals straight pretraining") {
  const fs::path run = run_path("base_stopped");
  base_model();
  std::string output;
  const int status = stop_at(pretraining("base_stopped"), run / "metrics.jsonl", 1, SIGINT, output);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT));
  CHECK(contains(output, "pretrain --resume"));
  REQUIRE(!fs::exists(run / "model"));
  CHECK(tiny_zero("pretrain --resume --name base_stopped --runs-dir " +
                  (workplace() / "runs").string())
            .code == 0);
  CHECK((read_tree(run / "model") == read_tree(run_path("base") / "model")));
  CHECK(read_lines(run / "metrics.jsonl").size() ==
        read_lines(run_path("base") / "metrics.jsonl").size());
}

TEST_CASE("a pre-training warm-up raises the rate, and RoFormerV2's a with it [RoFormerV2]") {
  const std::string shape = " --shape roformer-v2 --pretrain-warmup-updates ";
  const auto scale = [](const std::string& name) {
    const auto config = run_path(name) / "model" / "config.json";
    return json::parse(read_file(config))["residual_scale"].get<double>();
  };
  // 40000 tokens are some 75 updates: the first ramp ends, the second is left in it.
  REQUIRE(tiny_zero(pretraining("ramp") + shape + "40").code == 0);
  const Result long_ramp = tiny_zero(pretraining("long_ramp") + shape + "1000");
  REQUIRE(long_ramp.code == 0);
  CHECK(contains(long_ramp.output, "want 512000 for all of pretrain-warmup-updates"));
  REQUIRE(tiny_zero(pretraining("no_ramp") + " --shape roformer-v2").code == 0);
  CHECK(scale("ramp") == 1);
  CHECK(scale("no_ramp") == 1);
  CHECK((scale("long_ramp") > 0.06 && scale("long_ramp") < 0.09));
  const double rate = metrics("no_ramp").at(0)["lr"];  // of the 20th update
  CHECK(metrics("ramp").at(0)["lr"] == doctest::Approx(rate * 20 / 40));
  CHECK(metrics("ramp").back()["lr"] == metrics("no_ramp").back()["lr"]);
  std::string output;
  const int status = stop_at(pretraining("ramp_stopped") + shape + "1000",
                             run_path("ramp_stopped") / "metrics.jsonl", 1, SIGINT, output);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT));
  const std::string resumed = "pretrain --resume --runs-dir " + (workplace() / "runs").string();
  REQUIRE(tiny_zero(resumed + " --name ramp_stopped").code == 0);
  CHECK((read_tree(run_path("ramp_stopped") / "model") ==
         read_tree(run_path("long_ramp") / "model")));
}

TEST_CASE("both own shapes are trained by PPO and GRPO, evaluated and exported with a note") {
  for (const std::string shape : {"roformer-v2", "gpt"}) {
    CAPTURE(shape);
    REQUIRE(tiny_zero(pretraining("base_" + shape) + " --shape " + shape).code == 0);
    const std::string model = (run_path("base_" + shape) / "model").string();
    for (const std::string critic : {"separate", "shared"}) {
      const std::string name = shape + "_ppo_" + critic;
      REQUIRE(
          tiny_zero(training(name, "--model " + model + " --algorithm ppo --critic " + critic, 3))
              .code == 0);
    }
    const std::string flags =
        "--model " + model + " --kl loss-k3 --save-every 2 --compute-type float32";
    REQUIRE(tiny_zero(training(shape + "_grpo", flags, 4)).code == 0);
    for (const auto& line : metrics(shape + "_grpo"))
      CHECK(line["ratio_max_deviation"] < 1e-4);  // the sampler and the update see one function
    fs::remove_all(run_path(shape + "_grpo") / "checkpoints" / "step_4");
    const auto before = metrics(shape + "_grpo");
    REQUIRE(resume(shape + "_grpo", 4).code == 0);
    CHECK((metrics(shape + "_grpo") == before));
    const std::string eval =
        "eval" + common() + " --eval-problems 4 --max-response-tokens 8 --model ";
    CHECK(tiny_zero(eval + run_path(shape + "_grpo").string()).code == 0);
    const Result exported = tiny_zero("export --model " + model + " --output " +
                                      (workplace() / ("exported_" + shape)).string());
    CHECK(exported.code == 0);
    CHECK(contains(exported.output, "transformers and vLLM will refuse it"));
    CHECK(tiny_zero(eval + (workplace() / ("exported_" + shape)).string()).code == 0);
  }
}

TEST_CASE("a run with adapters saves them alone, ends the same if stopped, and is a model [LoRA]") {
  for (const std::string& more : {kGrpo, kPpo}) {
    const std::string flags = more + " --lora-rank 4 --lora-alpha 16";
    const std::string name = more == kPpo ? "lora_ppo" : "lora_grpo";
    CAPTURE(name);
    REQUIRE(tiny_zero(training(name, flags)).code == 0);
    std::string output;
    stop_at(training(name + "_stopped", flags), run_path(name + "_stopped") / "metrics.jsonl", 4,
            SIGTERM, output);
    REQUIRE(resume(name + "_stopped").code == 0);
    check_same(name + "_stopped", name);
    const fs::path model = run_path(name) / "checkpoints" / "step_32" / "model";
    CHECK(!fs::exists(model / "model.safetensors"));
    CHECK(fs::file_size(model / "adapters.safetensors") <
          fs::file_size(base_model() + "/model.safetensors"));
    REQUIRE(fs::exists(model / "lora.json"));
  }
  const std::string run = run_path("lora_grpo").string(),
                    merged = (workplace() / "merged").string();
  const std::string eval =
      "eval" + common() + " --eval-problems 8 --max-response-tokens 16 --model ";
  const Result adapted = tiny_zero(eval + run);
  CHECK(adapted.code == 0);
  REQUIRE(tiny_zero("export --export-type float32 --model " + run + " --output " + merged).code ==
          0);
  CHECK(!fs::exists(merged + "/lora.json"));
  const std::string line = workplace() / "line.jsonl";
  std::ofstream(line) << R"({"prompt": "use 1,2,3", "response": "1+2"})" << '\n';
  const std::string score = "score --compute-type float32 --model ";
  const Result with = tiny_zero(score + run + " < " + line),
               without = tiny_zero(score + merged + " < " + line),
               base = tiny_zero(score + base_model() + " < " + line);
  const auto first = [](const Result& result) {
    return json::parse(result.output)["log_probs"][0].get<double>();
  };
  CHECK(first(with) == doctest::Approx(first(without)).epsilon(1e-6));
  CHECK(first(with) != doctest::Approx(first(base)).epsilon(1e-4));
  CHECK(tiny_zero(training("upon", "--model " + run + " --lora-rank 2", 2)).code == 0);
  CHECK(tiny_zero(training("upon_full", "--model " + run + " --kl loss-k3", 2)).code == 0);
  REQUIRE(tiny_zero("sft --name upon_sft --runs-dir " + (workplace() / "runs").string() +
                    " --model " + run + " --data " + line)
              .code == 0);
  CHECK(fs::exists(run_path("upon_sft") / "model" / "model.safetensors"));  // all is trained
  const Result shared =
      tiny_zero(training("no", "--algorithm ppo --critic shared --lora-rank 2", 2));
  CHECK(shared.code == 1);
  CHECK(contains(shared.output, "critic = separate"));
  const Result rank = tiny_zero(training("no", "--lora-rank 33", 2));
  CHECK(rank.code == 1);
  CHECK(contains(rank.output, "model.layers.0.self_attn.qkv_proj is (96, 32)"));
  const Result alpha = tiny_zero(training("no", "--lora-alpha 8", 2));
  CHECK(alpha.code == 1);
  CHECK(contains(alpha.output, "lora-rank"));
}

TEST_CASE("every line of metrics.jsonl has exactly the documented keys") {
  std::istringstream names(
      "step reward_mean accuracy format_rate answered_rate response_tokens_mean truncated_rate "
      "reflection_rate "
      "zero_std_groups prompts_sampled prompts_kept sampling_rounds kl entropy ratio_max_deviation "
      "log_prob_gap_mean clip_fraction policy_loss "
      "value_loss "
      "explained_variance grad_norm lr rollout_tokens_per_s update_tokens_per_s step_s wall_s "
      "peak_memory_bytes");
  const std::set<std::string> documented{std::istream_iterator<std::string>(names), {}};
  for (const std::string& algorithm : {kGrpo, kPpo}) {
    int step = 0;
    const Files files = read_tree(run_path(straight(algorithm)));
    const bool float32 = contains(files.at("settings.conf"), "compute-type = float32");
    CHECK((float32 || algorithm == kPpo));
    for (const auto& text : read_lines(run_path(straight(algorithm)) / "metrics.jsonl")) {
      const json line = json::parse(text);
      std::set<std::string> keys;
      for (const auto& [key, value] : line.items()) keys.insert(key);
      CHECK(keys == documented);
      CHECK(line["step"] == step++);
      CHECK(line["prompts_kept"] <= line["prompts_sampled"]);
      CHECK((line["sampling_rounds"] > 1) == (line["prompts_sampled"] > 4));
      CHECK(line["value_loss"].is_number() == (algorithm == kPpo));
      CHECK(line["kl"].is_number() == (algorithm == kGrpo));
      // The sampler is the policy [T10], up to what bfloat16 rounds.
      CHECK(line["ratio_max_deviation"].get<double>() < (float32 ? 1e-3 : 0.1));
      CHECK(line["log_prob_gap_mean"].get<double>() < 0.01);
      CHECK(line["peak_memory_bytes"].get<int64_t>() > 10'000'000);
    }
    CHECK(step == kSteps);
  }
}

TEST_CASE("a reference that has moved is kept, though it moves no more") {
  REQUIRE(tiny_zero(training("moved", "--kl loss-k3 --reference-every 2", 4)).code == 0);
  const std::string at = "--resume --runs-dir " + (workplace() / "runs").string() + " --name moved";
  REQUIRE(tiny_zero("train " + at + " --reference-every 0 --num-steps 5").code == 0);
  const fs::path checkpoints = run_path("moved") / "checkpoints";
  REQUIRE(fs::exists(checkpoints / "step_5" / "reference"));
  CHECK((read_tree(checkpoints / "step_5" / "reference") ==
         read_tree(checkpoints / "step_4" / "reference")));
}

TEST_CASE("a reference that is not what the run began with is refused on --resume [T17]") {
  const fs::path copy = workplace() / "changed_base", weights = copy / "model.safetensors";
  fs::copy(base_model(), copy, fs::copy_options::recursive);
  const std::string bytes = read_file(weights);
  std::string others = bytes;
  others.back() ^= 1;
  for (const std::string flags : {"--kl loss-k3", "--algorithm prime"}) {
    const std::string name = "began" + std::to_string(flags.size());
    REQUIRE(tiny_zero(training(name, flags + " --model " + copy.string(), 2)).code == 0);
    std::ofstream(weights, std::ios::binary) << others;
    const Result changed = resume(name, 3);
    CHECK(changed.code == 1);
    CHECK(contains(changed.output, "is not what the run began with"));
    std::ofstream(weights, std::ios::binary) << bytes;
    CHECK(resume(name, 3).code == 0);
  }
}

TEST_CASE("while only the critic learns the policy's rate is 0 and its warm-up waits [T38]") {
  const std::string settings =
      "--algorithm ppo --critic separate --critic-warmup-steps 2 --warmup-updates 2 "
      "--mini-batches 1 --schedule constant";
  REQUIRE(tiny_zero(training("waiting", settings, 4)).code == 0);
  std::vector<double> rates;
  for (const json& line : metrics("waiting")) rates.push_back(line["lr"]);
  CHECK(rates == std::vector<double>{0, 0, 5e-4, 1e-3});
}

TEST_CASE("mistakes end with code 1, the name of the mistake and a way out, and touch nothing") {
  const fs::path old_run = run_path(straight(kGrpo));
  const Files before = read_tree(old_run);
  const std::string recipe = (workplace() / "broken.conf").string(),
                    odd = (workplace() / "odd").string();
  std::ofstream(recipe) << "num-steps = 3\n\nthis is no setting\n";
  fs::copy(base_model(), odd);
  json fields = json::parse(read_file(odd + "/config.json"));
  fields["num_attention_heads"] = 0;
  fields.erase("head_dim");  // then it is a quotient
  std::ofstream(odd + "/config.json") << fields;
  fs::copy(base_model(), odd + "2");
  fs::resize_file(odd + "2/model.safetensors", fs::file_size(odd + "2/model.safetensors") - 10);
  const std::string runs = " --runs-dir " + (workplace() / "runs").string();
  const std::vector<std::pair<std::string, std::vector<std::string>>> mistakes{
      {training("straight_grpo", ""), {old_run.string(), "--resume"}},
      {"train --resume --name never_started" + runs, {"never_started", "no checkpoint to resume"}},
      {training("new", "--learning-rat 1"), {"learning-rat", "nearest is \"learning-rate\""}},
      {training("new", "--clip-low 2"), {"clip-low", "\"2\"", "at most 1"}},
      {training("new", "--task chess"), {"chess", "countdown"}},
      {training("new", "--task multiplication --supervision process"),
       {"supervision", "multiplication", "countdown"}},
      {training("new", "--recipe " + recipe), {recipe + ":3", "this is no setting"}},
      {training("new", "--model /no/such/model"), {"/no/such/model"}},
      {"train --name without_model" + runs, {"--model"}},
      {"eval", {"--model"}},
      {"generate --model " + odd, {"config.json"}},
      {"generate --model " + odd + "2", {"model.safetensors", "model.norm.weight"}}};
  for (const auto& [arguments, parts] : mistakes) {
    CAPTURE(arguments);
    const Result result = tiny_zero(arguments);
    CHECK(result.code == 1);
    const std::string message =
        result.output.substr(std::min(result.output.size(), result.output.rfind("tiny_zero: ")));
    CAPTURE(message);
    for (const auto& part : parts) {
      CAPTURE(part);
      CHECK(contains(message, part));
    }
  }
  CHECK((read_tree(old_run) == before));
  const Result corrected =
      tiny_zero(training("new", "", 1));  // the attempts above are not in the way
  CHECK(corrected.code == 0);
}

TEST_CASE("eval prints JSON with accuracy, pass@k, maj@k and greedy, the same each time") {
  const std::string arguments =
      "eval --model " + base_model() + common() +
      " --eval-problems 6 --eval-samples 4 --max-response-tokens 16 --json - --responses " +
      (workplace() / "responses.jsonl").string();
  const auto evaluate = [&] {
    const Result result = tiny_zero(arguments);
    REQUIRE(result.code == 0);
    json report = json::parse(result.output.substr(result.output.find("\n{")));
    report.erase("seconds");
    return report;
  };
  const json report = evaluate();
  for (const std::string name : {"accuracy", "pass@2", "pass@4", "maj@4", "greedy"}) {
    CAPTURE(name);
    REQUIRE(report.contains(name));
    const double mean = report[name]["mean"], low = report[name]["low"],
                 high = report[name]["high"];
    CHECK((low - 1e-12 <= mean && mean <= high + 1e-12));
    CHECK(low < high);
  }
  CHECK(evaluate() == report);
  const auto responses = read_lines(workplace() / "responses.jsonl");
  CHECK(responses.size() == 24);
  CHECK(json::parse(responses[23])["problem"] == 5);
}

TEST_CASE("eval uses each problem of a test file once and says how many there are") {
  const fs::path file = workplace() / "few.jsonl";
  std::ofstream(file) << "{\"nums\": [1, 2, 3], \"target\": 6}\n"
                         "{\"nums\": [2, 3, 4], \"target\": 9}\n"
                         "{\"nums\": [1, 2, 3], \"target\": 6}\n";
  const auto evaluate = [&](int64_t problems) {
    const Result result = tiny_zero("eval --model " + base_model() + common() +
                                    " --max-response-tokens 8 --json - --countdown-test-file " +
                                    file.string() + " --eval-problems " + std::to_string(problems));
    INFO(result.output);
    REQUIRE(result.code == 0);
    CHECK(json::parse(result.output.substr(result.output.find("\n{")))["problems"] == 2);
    return result.output;
  };
  CHECK(contains(evaluate(1024), "2 distinct problems, where 1024 are asked for"));
  CHECK(!contains(evaluate(2), "distinct"));
}

TEST_CASE("report shows before and after, writes the curve and judges by earlier seeds") {
  const fs::path run = run_path("reported");
  REQUIRE(tiny_zero(training("reported", kGrpo, /*steps=*/6)).code == 0);
  for (const std::string stage : {"before", "middle", "after"}) {
    const Result result =
        tiny_zero("eval --model " + base_model() + common() + " --eval-problems 6 --greedy=false" +
                  " --max-response-tokens 16 --json " + (run / stage).string() +
                  ".json --responses " + (run / stage).string() + ".jsonl");
    REQUIRE(result.code == 0);
  }
  const std::string arguments = "report" + in_runs() + " --name reported --expected ";
  const Result first = tiny_zero(arguments + "''");
  CHECK(first.code == 0);
  for (const std::string part :
       {"accuracy", "response tokens", "--- before, reward", "--- after, reward"}) {
    CAPTURE(part);
    CHECK(contains(first.output, part));
  }
  CHECK(!contains(first.output, "expected range"));
  const json summary = json::parse(read_file(run / "summary.json"));
  CHECK(summary["steps"] == 6);
  CHECK(summary["accuracy"].size() == 6);
  CHECK(summary["before"] == summary["after"]);  // the same model
  CHECK(read_lines(run / "curve.tsv").size() == 7);

  const fs::path earlier = workplace() / "earlier.jsonl";
  json other = summary;
  other["after"]["response tokens"] = summary["after"]["response tokens"].get<double>() * 2;
  std::ofstream(earlier) << summary << '\n' << other << '\n';
  CHECK(contains(tiny_zero(arguments + earlier.string()).output,
                 "The run lies in the expected range."));
  std::ofstream(earlier) << other << '\n';
  CHECK(contains(tiny_zero(arguments + earlier.string()).output,
                 "The run lies outside the expected range."));
  fs::remove(run / "after.json");
  const Result missing = tiny_zero(arguments + "''");
  CHECK(missing.code == 1);
  CHECK(contains(missing.output, "after.json"));
}

TEST_CASE(
    "generate shows a problem's response and reward, the same each time, or continues a prompt") {
  const std::string arguments =
      "generate --model " + base_model() + common() + " --max-response-tokens 16 --samples 2";
  const Result first = tiny_zero(arguments + " --problem 0");
  CHECK(first.code == 0);
  CHECK(contains(first.output, "\nreward "));
  CHECK(tiny_zero(arguments + " --problem 0").output == first.output);
  CHECK(tiny_zero(arguments + " --problem 0 --seed 1").output != first.output);
  const Result prompted = tiny_zero(arguments + " --prompt '1 + 2'");
  CHECK(prompted.code == 0);
  CHECK(contains(prompted.output, "settings.conf\n1 + 2"));
  CHECK(contains(prompted.output, "\n1 + 2"));
}

TEST_CASE("tokenize, generate and score read and write JSON Lines and fit together") {
  const std::string model = " --model " + base_model() + " --threads 1",
                    place = workplace().string();
  const auto pipe = [&](const std::string& arguments, const std::vector<json>& lines) {
    std::ofstream in(place + "/in.jsonl");
    for (const auto& line : lines) in << line.dump() << '\n';
    in.close();
    const std::string type = arguments.starts_with("tokenize") ? "" : " --compute-type float32";
    const Result result = tiny_zero(arguments + model + type + " <" + place + "/in.jsonl");
    INFO(result.output);
    REQUIRE(result.code == 0);
    std::vector<json> out;
    std::istringstream text(result.output);
    for (std::string line; std::getline(text, line);)
      if (!line.starts_with('#')) out.push_back(json::parse(line));
    return out;
  };
  const std::string prompt = "use 1,2,3 once each to make 6\n<think>";
  const auto ids = pipe("tokenize", {{{"text", prompt}}, {{"text", ""}}});
  REQUIRE(ids.size() == 2);
  CHECK(ids[1]["ids"].empty());
  CHECK(pipe("tokenize --decode", {ids[0]})[0]["text"] == prompt);

  const auto rows = pipe("generate --samples 3 --max-response-tokens 12",
                         {{{"prompt", prompt}}, {{"prompt", "1"}}});
  REQUIRE(rows.size() == 6);
  CHECK(rows[0]["ids"] != rows[1]["ids"]);
  CHECK(rows[5]["prompt"] == "1");
  for (const auto& row : rows) {  // what was sampled is scored as it was sampled
    const auto apart = pipe("tokenize", {{{"text", row["prompt"]}}})[0]["ids"];
    const auto scored = pipe("score", {{{"prompt_ids", apart}, {"response_ids", row["ids"]}}})[0];
    CHECK(scored["ids"] == row["ids"]);
    REQUIRE(scored["log_probs"].size() == row["ids"].size());
    for (size_t t = 0; t < row["ids"].size(); ++t) {
      CHECK(scored["log_probs"][t].get<double>() ==
            doctest::Approx(row["log_probs"][t].get<double>()).epsilon(1e-4));
    }
  }
  const auto text = pipe("score", {{{"prompt", prompt}, {"response", "1+2=3"}}})[0];
  CHECK(text["ids"] == pipe("tokenize", {{{"text", "1+2=3"}}})[0]["ids"]);
  const auto greedy =
      pipe("generate --temperature 0 --samples 2 --max-response-tokens 12", {{{"prompt", prompt}}});
  CHECK(greedy[0] == greedy[1]);

  const std::vector<std::tuple<std::string, std::string, std::string>> mistakes{
      {"tokenize", "{\"text\": 1}", "line 1"},
      {"tokenize", "{\"txet\": \"a\"}", "text"},
      {"tokenize --decode", "{\"ids\": [1, 99]}", "no token has id 99"},
      {"score", "{\"prompt_ids\": [1, 99], \"response_ids\": [1]}", "no token has id 99"},
      {"score", "{\"prompt_ids\": [1], \"response_ids\": []}", "at least one each"},
      {"score --temperature 0", "{\"prompt_ids\": [1], \"response_ids\": [1]}", "temperature"},
      {"generate", "{\"prompt\": \"\"}", "must not be empty"},
      {"generate", "no JSON", "line 1"}};
  for (const auto& [verb, line, part] : mistakes) {
    CAPTURE(line);
    std::ofstream(place + "/in.jsonl") << line << '\n';
    const Result result = tiny_zero(verb + model + " <" + place + "/in.jsonl");
    CHECK(result.code == 1);
    CHECK(contains(result.output, part));
  }
}

TEST_CASE(
    "export writes the model's files again, weights in the wanted type, and over no other model") {
  const std::string to = (workplace() / "exported").string();
  std::ofstream(base_model() + "/special_tokens_map.json") << "{\"eos_token\": \"<|endoftext|>\"}";
  const std::string arguments = "export --model " + base_model() + " --output " + to;
  CHECK(tiny_zero(arguments).code == 0);
  Files exported = read_tree(to), original = read_tree(base_model());
  CHECK(exported["tokenizer.json"] == original["tokenizer.json"]);
  CHECK(exported["special_tokens_map.json"] == original["special_tokens_map.json"]);
  fs::remove(base_model() + "/special_tokens_map.json");
  CHECK(exported["model.safetensors"].size() < original["model.safetensors"].size() * 6 / 10);
  json fields = json::parse(exported["config.json"]), before = json::parse(original["config.json"]);
  CHECK(fields["torch_dtype"] == "bfloat16");
  fields["torch_dtype"] = before["torch_dtype"];
  CHECK(fields == before);
  const Result again = tiny_zero(arguments);
  CHECK(again.code == 1);
  CHECK(contains(again.output, to));
  CHECK(tiny_zero("export --model " + to + " --output " + to + "32 --export-type float32").code ==
        0);
}

TEST_CASE(
    "the planned memory is the measured one within a tenth, and train refuses what does not fit") {
  const fs::path models = workplace() / "runs";
  const auto make_wide = [&](const std::string& shape) {
    return tiny_zero("pretrain" + in_runs() + " --name wide_" + shape + " --shape " + shape +
                     " --layers 3 --hidden 512 --heads 8 --kv-heads 2 --ffn 1536" +
                     " --pretrain-tokens 1")
        .code;
  };
  REQUIRE(make_wide("qwen2") == 0);
  const std::string options =
      " --model " + (models / "wide_qwen2" / "model").string() + in_runs() +
      " --num-steps 2 --prompts-per-step 24 --group-size 8 --max-response-tokens 60" +
      " --entropy-coef 0.01";  // no response is without a gradient
  for (const std::string more :
       {"--tokens-per-micro-batch 1500", "--algorithm ppo --critic separate --kl reward",
        "--algorithm prime", "--lora-rank 8 --kl loss-k3", "--model roformer-v2", "--model gpt"}) {
    CAPTURE(more);
    const std::string name = "plan" + std::to_string(more.size());
    const bool own_shape = more.starts_with("--model ");
    std::string flags = more;
    if (own_shape) {
      const std::string shape = more.substr(8);
      REQUIRE(make_wide(shape) == 0);
      flags = "--model " + (models / ("wide_" + shape) / "model").string();
    }
    const Result run = tiny_zero("train" + options + " --name " + name + " " + flags);
    REQUIRE(run.code == 0);
    const double planned = std::stod(run.output.substr(run.output.find("\npeak") + 5)) * (1 << 30);
    const double measured =
        json::parse(read_lines(run_path(name) / "metrics.jsonl").back())["peak_memory_bytes"];
    MESSAGE("planned ", planned / (1 << 30), " GiB, measured ", measured / (1 << 30));
    CHECK(std::abs(planned / measured - 1) < 0.1);
  }
  const Result refused =
      tiny_zero("train" + options + " --name refused --gpu-memory 750MiB --rollout-batch 512");
  CHECK(refused.code == 1);
  const size_t flags = refused.output.find("this would fit:");
  REQUIRE(flags != std::string::npos);
  CHECK(!fs::exists(run_path("refused") / "settings.conf"));
  const std::string remedy =
      refused.output.substr(flags + 15, refused.output.find('\n', flags) - flags - 15);
  CAPTURE(remedy);
  CHECK(contains(remedy, "--tokens-per-micro-batch"));
  CHECK(!contains(tiny_zero("plan" + options + " --gpu-memory 750MiB" + remedy).output,
                  "training needs"));
  CHECK(
      contains(tiny_zero("plan" + options + " --gpu-memory 100MB").output, "take a smaller model"));
  const Result no_size = tiny_zero("plan" + options + " --gpu-memory much");
  CHECK(no_size.code == 1);
  CHECK(contains(no_size.output, "24GiB"));
}

TEST_CASE("a model is loaded with one copy of its weights in memory") {
  const fs::path runs = workplace() / "runs";
  const auto peak_of = [&](const std::string& model) {  // of a program that does nothing but load
    const std::string binary = TINY_ZERO_BINARY;
    const pid_t child = fork();
    if (child == 0) {
      freopen("/dev/null", "r", stdin);
      execl(binary.c_str(), binary.c_str(), "score", "--model", model.c_str(), nullptr);
      _exit(127);
    }
    rusage usage{};
    int status = 0;
    wait4(child, &status, 0, &usage);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return static_cast<double>(usage.ru_maxrss) * 1024;
  };
  const auto pretrain =
      "pretrain" + in_runs() + " --layers 6 --hidden 768 --heads 8 --kv-heads 2 --ffn 2304 --name ";
  REQUIRE(tiny_zero(pretrain + "large --pretrain-tokens 1").code == 0);
  const double base = peak_of(base_model());
  const auto large = (runs / "large" / "model").string();
  const auto weights = static_cast<double>(fs::file_size(large + "/model.safetensors"));
  REQUIRE(weights > 1.5e8);
  CHECK(peak_of(large) - base < 1.1 * weights);
  REQUIRE(tiny_zero("export --model " + large + " --output " + large + "_bfloat16").code == 0);
  CHECK(peak_of(large + "_bfloat16") - base <
        1.1 * weights);  // float32 in memory whatever the file has
}

TEST_CASE("every verb's help lists the settings that it reads") {
  const std::vector<std::pair<std::string, std::vector<std::string>>> verbs{
      {"pretrain", {"--layers", "--pretrain-tokens", "--beta1", "--countdown-template"}},
      {"train",
       {"--group-size", "--clip-low", "--critic-head", "--resume", "--recipe",
        "--countdown-count-max"}},
      {"eval", {"--eval-samples", "--json", "--model"}},
      {"generate", {"--prompt", "--temperature"}},
      {"bench", {"--bench-steps", "--threads"}}};
  const std::string overview = tiny_zero("--help").output;
  for (const auto& [verb, settings] : verbs) {
    CAPTURE(verb);
    CHECK(contains(overview, verb));
    const Result help = tiny_zero(verb + " --help");
    CHECK(help.code == 0);
    for (const auto& setting : settings) {
      CAPTURE(setting);
      CHECK(contains(help.output, setting));
    }
  }
  CHECK(!contains(tiny_zero("generate --help").output, "--clip-low"));
}
