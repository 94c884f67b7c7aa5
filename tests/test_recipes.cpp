// The recipes of tasks/*/recipes: each holds what tests/data/papers.tsv says of its paper, names a
// source for every line, and runs, stopped and resumed, to the same bytes.

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <tuple>
#include <vector>

#include "tests/workplace.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/task.h"

using namespace tiny_zero;

namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

const fs::path kTasks = TEST_DATA_DIR "/../../tasks";
const std::set<std::string> kOwn{"demo", "smollm2", "sums"};  // this project's, of no paper

/// All recipes, in the order of their paths.
std::vector<fs::path> recipes() {
  std::vector<fs::path> paths;
  for (const auto& task : fs::directory_iterator(kTasks)) {
    if (!fs::is_directory(task.path() / "recipes")) continue;
    for (const auto& file : fs::directory_iterator(task.path() / "recipes"))
      if (file.path().extension() == ".conf") paths.push_back(file.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// A row of papers.tsv. `ours` is empty if the recipe follows the paper, "-" for a fact that no
/// setting holds.
struct Row {
  std::string recipe, setting, paper, ours, source;
};

std::vector<std::string> split(const std::string& line, char mark) {
  std::vector<std::string> parts{""};
  for (const char c : line) {
    if (c == mark) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::vector<Row> read_table() {
  std::istringstream text(read_file(TEST_DATA_DIR "/papers.tsv"));
  std::string line;
  std::getline(text, line);
  REQUIRE(line == "recipe\tsetting\tpaper\tours\tsource");
  std::vector<Row> rows;
  while (std::getline(text, line)) {
    const auto parts = split(line, '\t');
    CAPTURE(line);
    REQUIRE(parts.size() == 5);
    rows.push_back({parts[0], parts[1], parts[2], parts[3], parts[4]});
  }
  return rows;
}

/// Every setting of the program and its tasks.
struct AllSettings {
  Config config;
  std::vector<std::unique_ptr<Task>> tasks;
  Settings list = config.settings();
  AllSettings() {
    for (const auto& name : task_names()) {
      tasks.push_back(make_task(name));
      list.append(tasks.back()->settings());
    }
  }
  /// The value as the program would write it: "1e-6" and "0.000001" are the same.
  std::string canonical(const std::string& setting, const std::string& value) const {
    list.find(setting).parse(value);
    return list.find(setting).get();
  }
};

struct Result {
  int code;
  std::string output;
};

/// Runs the program in the workplace, on one thread.
Result tiny_zero(const std::string& arguments) {
  const std::string log = (workplace() / "output.txt").string();
  const int status =
      std::system(("cd " + workplace().string() + " && </dev/null " TINY_ZERO_BINARY " " +
                   arguments + " --threads 1 >" + log + " 2>&1")
                      .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(log)};
}

void require(const std::string& arguments) {
  const Result result = tiny_zero(arguments);
  CAPTURE(arguments);
  CAPTURE(result.output);
  REQUIRE(result.code == 0);
}

void write_lines(const std::string& name, const std::vector<json>& rows) {
  std::ofstream file(workplace() / name);
  for (const auto& row : rows) file << row.dump() << '\n';
}

/// Prompts of the problems in math.jsonl and puzzles.jsonl, in every form that a task has.
std::vector<std::string> all_prompts() {
  std::vector<std::string> prompts;
  for (const auto& [name, file, forms] :
       {std::tuple{"math", "math", std::vector{"orz", "qwen", "plain", "open-r1", "short"}},
        std::tuple{"countdown", "puzzles", std::vector{"base", "chat", "nano", "short"}}}) {
    const auto task = make_task(name);
    const Settings settings = task->settings();
    const std::string prefix = std::string(name) + "-", path = (workplace() / file).string();
    settings.find(prefix + "train-file").parse(path + ".jsonl");
    settings.find(prefix + "test-file").parse(path + "_test.jsonl");
    for (const char* form : forms) {
      settings.find(prefix + "template").parse(form);
      task->prepare(0);
      for (int64_t i = 0; i < 4; ++i) prompts.push_back(task->problem(Split::train, i).prompt);
    }
  }
  return prompts;
}

/// Problems of both tasks, most of which 1+1 solves, and a tiny model that spells bytes and answers
/// whatever it is asked with 1+1 or with 1-1, equally often, after "1+1=2" or "1-1=2". Made once.
void make_workplace() {
  static bool made = false;
  if (made) return;
  std::vector<json> math, puzzles, base, examples;
  for (int i = 0; i < 8; ++i) {
    math.push_back(
        {{"problem", "Sum " + std::to_string(i)}, {"answer", i < 2 ? "7" : "2"}, {"level", 4}});
    puzzles.push_back({{"nums", {1, 1}}, {"target", 2}});
  }
  write_lines("math.jsonl", math);
  write_lines("math_test.jsonl", {{{"problem", "Another"}, {"answer", "2"}, {"level", 4}}});
  write_lines("puzzles.jsonl", puzzles);
  write_lines("puzzles_test.jsonl", {{{"nums", {2, 3}}, {"target", 5}}});
  for (std::string prompt : all_prompts()) {
    // The base text adds a line break to a problem, so that a prompt which ends with <think> is
    // taught by an answer that repeats the tag.
    const bool opened = prompt.ends_with("<think>");
    if (!opened) prompt.pop_back();
    for (const std::string sum : {"1+1", "1-1"}) {
      const std::string answer = "so " + sum + "=2\n</think>\n<answer>" + sum + "</answer>";
      base.push_back(
          {{"problem", prompt}, {"answer", "2"}, {"solution", (opened ? "<think>" : "") + answer}});
      if (examples.size() < 4) examples.push_back({{"prompt", prompt}, {"response", answer}});
    }
  }
  write_lines("base.jsonl", base);
  write_lines("examples.jsonl", examples);
  require(
      "pretrain --task math --math-template short --math-train-file base.jsonl"
      " --math-test-file math_test.jsonl --name base --layers 1 --hidden 32 --heads 2"
      " --kv-heads 2 --ffn 32 --max-positions 2048 --pretrain-tokens 400000"
      " --pretrain-batch-tokens 1024 --pretrain-learning-rate 1e-2");
  made = true;
}

using Values = std::map<std::string, std::string>;  // of settings

/// What makes a recipe small. Its method stays: two groups at least, two mini-batches where it has
/// more than one, and every setting that is not a size.
Values cut(const Values& recipe) {
  const auto number = [&](const std::string& name, int64_t otherwise) {
    return recipe.contains(name) ? std::stoll(recipe.at(name)) : otherwise;
  };
  const Config defaults;
  const auto at_most = [](int64_t value, int64_t most) {
    return std::to_string(std::min(value, most));
  };
  if (recipe.contains("sft-epochs")) {
    return {{"sft-epochs", "1"},
            {"sft-batch", "2"},
            {"save-every", "1"},
            {"compute-type", "float32"},
            {"device", "cpu"},
            {"data", "examples.jsonl"},
            {"warmup-updates", at_most(number("warmup-updates", 0), 1)}};
  }
  Values small{{"num-steps", "2"},
               {"save-every", "1"},
               {"prompts-per-step", "4"},
               {"group-size", at_most(number("group-size", defaults.group_size), 4)},
               {"mini-batches", at_most(number("mini-batches", 1), 2)},
               {"max-response-tokens", "64"},
               {"warmup-updates", at_most(number("warmup-updates", 0), 1)},
               {"rollout-batch", "16"},
               {"compute-type", "float32"},
               {"device", "cpu"},
               {"countdown-train-file", "puzzles.jsonl"},
               {"countdown-test-file", "puzzles_test.jsonl"},
               {"math-train-file", "math.jsonl"},
               {"math-test-file", "math_test.jsonl"}};
  if (number("critic-mini-batches", 0) > 0)
    small["critic-mini-batches"] = at_most(number("critic-mini-batches", 1), 2);
  if (number("reference-every", 0) > 0) small["reference-every"] = "1";
  if (number("overlong-buffer", 0) > 0) small["overlong-buffer"] = "40";
  if (number("lora-rank", 0) > 0) small["lora-rank"] = "4";
  if (recipe.contains("max-pass-rate")) small["pass-rates"] = "rates.jsonl";
  return small;
}

/// The lines of metrics.jsonl without what a clock or the system measured.
std::vector<json> metrics(const fs::path& run) {
  std::istringstream text(read_file(run / "metrics.jsonl"));
  std::vector<json> lines;
  for (std::string line; std::getline(text, line);) {
    lines.push_back(json::parse(line));
    for (const char* timing : {"rollout_tokens_per_s", "update_tokens_per_s", "tokens_per_s",
                               "step_s", "wall_s", "peak_memory_bytes"})
      lines.back().erase(timing);
  }
  return lines;
}

std::map<std::string, std::string> read_tree(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file())
      files[fs::relative(entry.path(), directory).string()] = read_file(entry.path());
  }
  return files;
}

}  // namespace

TEST_CASE("recipes: each holds the values that papers.tsv has, and its table has no other rows") {
  std::map<std::string, std::vector<Row>> table;
  for (const Row& row : read_table()) table[row.recipe].push_back(row);
  std::set<std::string> names;
  for (const fs::path& path : recipes()) {
    const std::string name = path.stem().string();
    CAPTURE(path.string());
    CHECK(names.insert(name).second);
    if (kOwn.contains(name)) continue;
    REQUIRE(table.contains(name));
    AllSettings recipe;
    std::set<std::string> without_row = recipe.list.read_recipe(path);
    const AllSettings scratch;
    for (const auto& [_, setting, paper, ours, source] : table[name]) {
      CAPTURE(setting);
      CHECK_FALSE(setting.empty());
      CHECK_FALSE(paper.empty());
      CHECK((contains(source, "[") || contains(source, "departure")));
      if (!ours.empty() && ours != "-") CHECK(contains(source, "departure"));
      if (ours == "-") continue;               // no setting holds it
      CHECK(without_row.erase(setting) == 1);  // the recipe has it, and one row says so
      CHECK(recipe.list.find(setting).get() ==
            scratch.canonical(setting, ours.empty() ? paper : ours));
    }
    for (const auto& setting : without_row) FAIL_CHECK("no row for " << setting);
  }
  for (const auto& [name, rows] : table) {
    CAPTURE(name);
    CHECK(names.contains(name));
  }
}

TEST_CASE("recipes: open_r1.sh goes through its three stages, and on from where it was stopped") {
  make_workplace();
  // As if killed before anything was saved: a run with the directory of its checkpoints alone.
  fs::create_directories(workplace() / "r1" / "open_r1_sft" / "checkpoints");
  const std::string small = "--max-response-tokens 64 --compute-type float32";
  const std::string script =
      "cd " + workplace().string() +
      " && OMP_NUM_THREADS=1 PROGRAM=" TINY_ZERO_BINARY
      " PROBLEMS=math.jsonl TEST=math_test.jsonl COUNT=8 RUNS=r1 DEVICE=cpu"
      " TEACHER=runs/base BASE=runs/base/model INSTRUCT=runs/base/model"
      " GENERATE_FLAGS='" +
      small + "' EVAL_FLAGS='" + small +
      "'"
      " SFT_FLAGS='--sft-epochs 1 --sft-batch 8 --warmup-updates 0 --compute-type float32'"
      " RL_FLAGS='" +
      small +
      " --num-steps 1 --prompts-per-step 2 --group-size 4 --mini-batches 1"
      " --warmup-updates 0' bash " +
      (kTasks / "math/recipes/open_r1.sh").string() + " >script.txt 2>&1";
  for (const int call : {1, 2}) {
    const int status = std::system(script.c_str());
    const std::string said = read_file(workplace() / "script.txt");
    CAPTURE(said);
    REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    for (const std::string run : {"open_r1_rl", "open_r1_sft_rl"})
      CHECK(fs::exists(workplace() / "r1" / run / "checkpoints" / "step_1"));
    CHECK((said.find("fine-tuning on") != std::string::npos) == (call == 1));
  }
}

TEST_CASE("recipes: every line names its source, or why it departs from it") {
  for (const fs::path& path : recipes()) {
    if (kOwn.contains(path.stem().string())) continue;
    std::istringstream text(read_file(path));
    for (std::string line; std::getline(text, line);) {
      if (line.empty() || line[0] == '#' || line.find_first_not_of(' ') == line.find('#')) continue;
      CAPTURE(path.string());
      CAPTURE(line);
      const size_t comment = line.find('#');
      REQUIRE(comment != std::string::npos);
      const std::string reason = line.substr(comment);
      CHECK((contains(reason, "[") || contains(reason, "departure: ")));
    }
  }
}

TEST_CASE("recipes: each runs, and ends in the same bytes when it is stopped and resumed") {
  make_workplace();
  const fs::path runs = workplace() / "runs";
  for (const fs::path& path : recipes()) {
    const std::string name = path.stem().string();
    CAPTURE(path.string());
    AllSettings recipe;
    Values values;
    for (const auto& setting : recipe.list.read_recipe(path))
      values[setting] = recipe.list.find(setting).get();
    const std::string verb = values.contains("sft-epochs") ? "sft" : "train",
                      task = path.parent_path().parent_path().filename().string();
    const Values small = cut(values);
    std::string flags = " --recipe " + path.string();
    if (verb == "train") flags += " --task " + task;
    for (const auto& [setting, value] : small) {
      const bool of_other_task = setting.starts_with(task == "math" ? "countdown-" : "math-");
      if (!of_other_task) flags += " --" + setting + " " + value;
    }
    if (values.contains("max-pass-rate") && !fs::exists(workplace() / "rates.jsonl")) {
      require("eval --recipe " + path.string() + " --task " + task + " --model runs/base" +
              " --split train --eval-problems 8 --eval-samples 8 --max-response-tokens 64"
              " --compute-type float32 --greedy=false --math-train-file math.jsonl"
              " --math-test-file math_test.jsonl --pass-rates rates.jsonl");
    }
    require(verb + flags + " --name " + name + " --model runs/base");

    // Nothing was hidden: the run has the recipe's values but for the sizes.
    AllSettings used;
    used.list.read_recipe(runs / name / "settings.conf");
    for (const auto& [setting, value] : values) {
      CAPTURE(setting);
      if (!small.contains(setting)) CHECK(used.list.find(setting).get() == value);
    }
    const auto lines = metrics(runs / name);
    REQUIRE(lines.size() == 2);
    double gradients = 0;
    for (const auto& line : lines) gradients += line.at("grad_norm").get<double>();
    CHECK(gradients > 0);

    // As if killed after its first checkpoint, with more in its logs than that checkpoint knows.
    const fs::path stopped = runs / (name + "_stopped");
    fs::copy(runs / name, stopped, fs::copy_options::recursive);
    fs::remove_all(stopped / "checkpoints" / "step_2");
    fs::remove_all(stopped / "model");
    REQUIRE(fs::exists(stopped / "checkpoints" / "step_1"));
    require(verb + " --resume --name " + name + "_stopped");
    CHECK((metrics(stopped) == lines));
    const auto wanted = read_tree(runs / name / "checkpoints" / "step_2"),
               found = read_tree(stopped / "checkpoints" / "step_2");
    CHECK(wanted.size() >= 4);
    CHECK(found.size() == wanted.size());
    for (const auto& [file, bytes] : wanted) {
      CAPTURE(file);
      if (file != "state.json")  // it counts seconds
        CHECK((found.contains(file) && found.at(file) == bytes));
    }
  }
}
