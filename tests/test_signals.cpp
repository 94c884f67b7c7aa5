// Whole programs on a terminal, under signals, and where nothing can be learnt.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tests/workplace.h"
#include "tiny_zero/files/safetensors.h"

namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;
using namespace std::chrono_literals;

const std::string kCountdown = TEST_DATA_DIR "/../../tasks/countdown";

fs::path run_path(const std::string& name) { return workplace() / "runs" / name; }

std::vector<json> read_rows(const fs::path& path) {
  std::istringstream text(read_file(path));
  std::vector<json> rows;
  for (std::string line; std::getline(text, line);) rows.push_back(json::parse(line));
  return rows;
}

/// A command that runs beside the test, in a process group of its own.
class Child {
 public:
  /// @param command  for the shell   @param before  what the child does first
  explicit Child(
      const std::string& command, const std::function<void()>& before = [] {}) {
    pid_ = fork();
    if (pid_ == 0) {
      setpgid(0, 0);
      for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
      before();
      const std::string logged = "exec >" + log_.string() + " 2>&1; exec " + command;
      execl("/bin/bash", "bash", "-c", logged.c_str(), nullptr);
      _exit(127);
    }
    setpgid(pid_, pid_);
  }
  ~Child() {
    if (!ended_) {
      kill(-pid_, SIGKILL);
      waitpid(pid_, &status_, 0);
    }
  }
  Child(const Child&) = delete;
  bool running() {
    ended_ = ended_ || waitpid(pid_, &status_, WNOHANG) == pid_;
    return !ended_;
  }
  /// Waits until the condition holds, the command ends or half a minute has passed.
  void wait_for(const std::function<bool()>& condition) {
    for (int i = 0; i < 15000 && running() && !condition(); ++i) std::this_thread::sleep_for(2ms);
  }
  void send(int signal) const { kill(pid_, signal); }
  void send_group(int signal) const { kill(-pid_, signal); }
  /// As the shell counts: 128 + the signal that ended the command, also if it did not catch it.
  int end() {
    if (!ended_) waitpid(pid_, &status_, 0);
    ended_ = true;
    return WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
  }
  bool killed_by(int signal) {
    end();
    return WIFSIGNALED(status_) && WTERMSIG(status_) == signal;
  }
  std::string output() const { return read_file(log_); }

 private:
  fs::path log_ = [] {
    static int count = 0;
    return workplace() / ("output_" + std::to_string(count++));
  }();
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

std::string common() { return " --recipe " + kCountdown + "/recipes/demo.conf --threads 1"; }
std::string in_runs() { return common() + " --runs-dir " + (workplace() / "runs").string(); }

std::string pretraining(const std::string& name, int64_t tokens = 40000) {
  return TINY_ZERO_BINARY " pretrain" + in_runs() + " --name " + name +
         " --layers 1 --hidden 32 --heads 2 --kv-heads 2 --ffn 32 --pretrain-tokens " +
         std::to_string(tokens);
}

const std::string& base_model() {
  static const std::string path = [] {
    Child child(pretraining("base"));
    REQUIRE(child.end() == 0);
    return (run_path("base") / "model").string();
  }();
  return path;
}

/// A verb on the base model.
std::string on_base(const std::string& verb, const std::string& more) {
  return TINY_ZERO_BINARY " " + verb + common() + " --model " + base_model() + " " + more;
}

std::string training(const std::string& name, const std::string& more) {
  std::string options = "--name " + name + " " + more;
  for (const std::string small :
       {"--prompts-per-step 4", "--group-size 2", "--max-response-tokens 16"}) {
    if (!contains(more, small.substr(0, small.find(' ')))) options += " " + small;
  }
  return TINY_ZERO_BINARY " train" + in_runs() + " --model " + base_model() + " " + options;
}

std::string resumption(const std::string& name, const std::string& more) {
  return TINY_ZERO_BINARY " train --resume --runs-dir " + (workplace() / "runs").string() +
         " --name " + name + " " + more;
}

// Its only step takes minutes.
const std::string kEndless =
    "--prompts-per-step 512 --group-size 64 --max-response-tokens 500 --rollout-batch 64";

size_t lines_of(const fs::path& path) {
  const std::string text = read_file(path);
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("train and pretrain save at INT, TERM and HUP and return 128 + the signal") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    CAPTURE(signal);
    const std::string name = "stopped_" + std::to_string(signal);
    Child child(training(name, "--num-steps 1000 --save-every 1000"));
    child.wait_for([&] { return lines_of(run_path(name) / "metrics.jsonl") > 0; });
    child.send(signal);
    CHECK(child.end() == 128 + signal);
    CHECK(!child.killed_by(signal));
    CHECK(contains(child.output(), "stopped and saved; continue with: "));
    CHECK(!fs::is_empty(run_path(name) / "checkpoints"));
  }
  base_model();
  Child child(pretraining("hung_up", 4000000));
  child.wait_for([&] { return lines_of(run_path("hung_up") / "metrics.jsonl") > 0; });
  child.send(SIGHUP);
  CHECK(child.end() == 128 + SIGHUP);
  CHECK(contains(child.output(), "stopped and saved; continue with: "));
}

TEST_CASE("a second signal ends the program at once, an ignored one does nothing") {
  Child twice(training("twice", kEndless));
  twice.wait_for([&] { return fs::exists(run_path("twice") / "settings.conf"); });
  std::this_thread::sleep_for(300ms);
  twice.send(SIGINT);
  std::this_thread::sleep_for(300ms);
  CHECK(twice.running());  // it waits for the step's end, to save
  twice.send(SIGTERM);
  twice.wait_for([] { return false; });
  REQUIRE(!twice.running());
  CHECK(twice.end() == 128 + SIGTERM);
  CHECK(!contains(twice.output(), "stopped and saved"));

  Child nohup(training("nohup", "--num-steps 60"), [] { signal(SIGHUP, SIG_IGN); });
  nohup.wait_for([&] { return lines_of(run_path("nohup") / "metrics.jsonl") > 0; });
  nohup.send(SIGHUP);
  CHECK(nohup.end() == 0);
  CHECK(lines_of(run_path("nohup") / "metrics.jsonl") == 60);
}

TEST_CASE("verbs that have nothing to save end at the first signal") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    CAPTURE(signal);
    Child eval(on_base("eval", "--eval-problems 1024 --eval-samples 64"));
    std::this_thread::sleep_for(700ms);  // it is sampling by then
    REQUIRE(eval.running());
    eval.send(signal);
    CHECK(eval.killed_by(signal));

    const std::string pipe = workplace() / ("pipe_" + std::to_string(signal));
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    Child tokenize(on_base("tokenize", "<" + pipe));
    std::ofstream lines(pipe);  // and never closed
    lines << "{\"text\": \"1+2=3\"}" << std::endl;
    tokenize.wait_for([&] { return contains(tokenize.output(), "ids"); });
    tokenize.send(signal);
    CHECK(tokenize.killed_by(signal));
  }
}

TEST_CASE("Ctrl-C stops the demo in whatever stage it is") {
  const fs::path tree = workplace() / "tree";
  fs::create_directories(tree / "build");
  fs::create_directories(tree / "tasks");
  fs::copy(kCountdown, tree / "tasks" / "countdown", fs::copy_options::recursive);
  fs::create_symlink(TINY_ZERO_BINARY, tree / "build" / "tiny_zero");
  const fs::path runs = workplace() / "demo";
  for (const std::string log : {"quick-base-0/metrics.jsonl", "quick-grpo-0/metrics.jsonl"}) {
    CAPTURE(log);
    Child demo("env QUICK=1 OMP_NUM_THREADS=1 RUNS=" + runs.string() + " " +
               (tree / "tasks/countdown/demo.sh").string());
    demo.wait_for([&] { return lines_of(runs / log) > 0; });
    REQUIRE(demo.running());
    demo.send_group(SIGINT);  // as a terminal does
    CHECK(demo.end() == 128 + SIGINT);
    const std::string output = demo.output();
    CAPTURE(output);
    CHECK(contains(output, "stopped and saved"));
    CHECK(!contains(output, log.starts_with("quick-base") ? "2/4" : "3/4"));
    if (log.starts_with("quick-base")) {  // the next round needs a base model
      fs::remove_all(runs / "quick-base-0");
      base_model();
      fs::copy(run_path("base"), runs / "quick-base-0", fs::copy_options::recursive);
    }
  }
}

TEST_CASE("a terminal shows bars with the time left, anything else and --json - none") {
  struct Case {
    std::string command, shown;
  };
  for (const auto& [command, shown] :
       {Case{training("seen", "--num-steps 3 --group-size 64 --max-response-tokens 64"),
             "sampling "},
        Case{training("seen_updating", "--num-steps 3 --tokens-per-micro-batch 16"), " left"},
        Case{pretraining("seen_base"), "/40000"},
        Case{on_base("eval", "--eval-problems 64"), "/128"},
        Case{on_base("eval", "--eval-problems 64 --json -"), ""}}) {
    CAPTURE(command);
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    REQUIRE(terminal >= 0);
    REQUIRE(grantpt(terminal) == 0);
    REQUIRE(unlockpt(terminal) == 0);
    const std::string slave = ptsname(terminal);
    Child child(command + " >" + slave + " 2>&1 </dev/null");
    std::string screen;
    char buffer[4096];
    const auto read_all = [&] {
      pollfd ready{terminal, POLLIN, 0};
      while (poll(&ready, 1, 0) > 0 && (ready.revents & POLLIN)) {
        const auto count = read(terminal, buffer, sizeof buffer);
        if (count <= 0) break;
        screen.append(buffer, static_cast<size_t>(count));
      }
      return false;
    };
    child.wait_for(read_all);
    REQUIRE(!child.running());
    CHECK(child.end() == 0);
    read_all();
    close(terminal);
    CAPTURE(screen);
    CHECK(contains(screen, "\r\033[K") == !shown.empty());
    CHECK(contains(screen, shown));
  }
  Child piped(training("piped", "--num-steps 3"));
  CHECK(piped.end() == 0);
  CHECK(!contains(piped.output(), "\r"));
  CHECK(!contains(piped.output(), " left"));
  CHECK(contains(piped.output(), "accuracy 0."));
}

TEST_CASE("a run whose updates are all skipped ends with code 1, three dumps and a way out") {
  // So large a coefficient overflows the gradient.
  const std::string hopeless = "--entropy-coef 1e38 --num-steps ";
  Child straight(training("hopeless", hopeless + "40"));
  CHECK(straight.end() == 1);
  const std::string output = straight.output();
  CAPTURE(output);
  for (const std::string part : {"gradient was not finite", "from step 0 on", "learning-rate",
                                 "not_finite_step_0.safetensors"})
    CHECK(contains(output, part));
  const auto dumps = [](const std::string& name) {
    int64_t count = 0;
    for (const auto& entry : fs::directory_iterator(run_path(name)))
      count += entry.path().filename().string().starts_with("not_finite_step_");
    return count;
  };
  CHECK(lines_of(run_path("hopeless") / "metrics.jsonl") == 10);
  CHECK(dumps("hopeless") == 3);
  Child mended(resumption("hopeless", "--entropy-coef 0 --num-steps 12"));
  CHECK(mended.end() == 0);
  CHECK(lines_of(run_path("hopeless") / "metrics.jsonl") == 12);

  Child part(training("in_parts", hopeless + "4"));
  CHECK(part.end() == 0);
  Child rest(resumption("in_parts", "--num-steps 40"));  // the count goes on
  CHECK(rest.end() == 1);
  CHECK(lines_of(run_path("in_parts") / "metrics.jsonl") == 10);
  CHECK(dumps("in_parts") == 3);
}

TEST_CASE("equal rewards and truncated responses are told once, on standard error") {
  Child child(training("dull", "--num-steps 25 --max-response-tokens 1 --temperature 0.2"));
  CHECK(child.end() == 0);
  const std::string output = child.output();
  CAPTURE(output);
  for (const std::string part : {"leaves nothing to learn", "every response was truncated"}) {
    const size_t found = output.find(part);
    REQUIRE(found != std::string::npos);
    CHECK(output.find(part, found + 1) == std::string::npos);
    CHECK(output.rfind("step ", found) > output.find("step  8"));  // after ten steps, not before
  }
}

TEST_CASE("samples.jsonl shows why a response gained: group, gold and mean advantage") {
  Child child(training("sampled",
                       "--algorithm ppo --critic-head orz --num-steps 1 "
                       "--samples-per-step 3 --dump-steps 1"));
  REQUIRE(child.end() == 0);
  const auto rows = read_rows(run_path("sampled") / "samples.jsonl");
  const auto dump =
      tiny_zero::load_safetensors(run_path("sampled") / "dump" / "step_0.safetensors");
  REQUIRE(rows.size() == 3);
  for (int64_t i = 0; i < 3; ++i) {
    CHECK(rows[i].at("group") == i / 2);
    CHECK(contains(rows[i].at("gold"), "="));
    CHECK(rows[i].at("reward") == dump.at("rewards")[i].item<double>());
    const auto length = dump.at("lengths")[i].item<int64_t>();
    const double mean = dump.at("advantages")[i].narrow(0, 0, length).mean().item<double>();
    CHECK(mean != 0);
    CHECK(rows[i].at("advantage").get<double>() == doctest::Approx(mean));
  }
  CHECK(rows[0].at("prompt") == rows[1].at("prompt"));
  CHECK(rows[0].at("prompt") != rows[2].at("prompt"));
}

TEST_CASE("eval honours stop-text: such a response ends there, complete and finished") {
  const fs::path file = workplace() / "stopped.jsonl";
  Child child(on_base("eval",
                      "--eval-problems 32 --max-response-tokens 40 --stop-text '=' "
                      "--responses " +
                          file.string()));
  CHECK(child.end() == 0);
  int64_t stopped = 0;
  for (const json& row : read_rows(file)) {
    const auto text = row.at("response").get<std::string>();
    if (!contains(text, "=")) continue;
    CHECK(text.find('=') == text.size() - 1);
    CHECK(row.at("finished") == true);
    ++stopped;
  }
  CHECK(stopped > 3);
}

TEST_CASE("plan returns 1 if the plan does not fit, after the table, and needs no device here") {
  for (const auto& [more, code] : {std::pair{"--gpu-memory 1MB", 1},
                                   {"--gpu-memory 900GiB", 0},
                                   {"--gpu-memory 900GiB --device cuda", 0}}) {
    CAPTURE(more);
    Child child(on_base("plan", more));
    CHECK(child.end() == code);
    CHECK(contains(child.output(), "optimiser (two moments)"));
    CHECK(contains(child.output(), "training needs") == (code == 1));
  }
}

TEST_CASE("a device that is not there is named with what is, before anything else") {
  for (const std::string verb :
       {"train", "pretrain", "eval", "generate", "score", "plan", "bench"}) {
    for (const std::string device : {"cuda:77", "cuda:x", "cuda:"}) {
      CAPTURE(verb);
      CAPTURE(device);
      Child child(TINY_ZERO_BINARY " " + verb + " --device " + device);
      CHECK(child.end() == 1);
      const std::string output = child.output();
      CAPTURE(output);
      CHECK(contains(output, "device is \"" + device + "\", found "));
      CHECK(contains(output, "--device cpu"));
    }
  }
}
