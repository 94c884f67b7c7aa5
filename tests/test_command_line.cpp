// The command line as a user meets it: flags without effect, names from elsewhere, models of runs,
// what is printed of the settings.

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/workplace.h"

namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

const std::string kRecipes = TEST_DATA_DIR "/../../tasks/countdown/recipes/";

std::string write_file(const std::string& name, const std::string& text) {
  std::ofstream(workplace().string() + "/" + name) << text;
  return workplace().string() + "/" + name;
}

struct Result {
  int code;
  std::string out, err;
};

/// Runs the program in the workplace, with nothing to read unless the arguments say so.
Result tiny_zero(const std::string& arguments) {
  const std::string files =
      " >" + workplace().string() + "/out.txt 2>" + workplace().string() + "/err.txt";
  const int status =
      std::system(("cd " + workplace().string() + " && </dev/null bash -c '" TINY_ZERO_BINARY " " +
                   arguments + "'" + files)
                      .c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
          read_file(workplace().string() + "/out.txt"),
          read_file(workplace().string() + "/err.txt")};
}

const std::string kDemo = " --threads 1 --recipe " + kRecipes + "demo.conf";

/// A run of pre-training, and one of training with two checkpoints; both made once.
const std::string& base() {
  static const std::string path = [] {
    const Result made = tiny_zero("pretrain" + kDemo +
                                  " --name base --layers 1 --hidden 32 --heads 2 --kv-heads 2"
                                  " --ffn 32 --pretrain-tokens 20000");
    INFO(made.err);
    REQUIRE(made.code == 0);
    return workplace().string() + "/runs/base";
  }();
  return path;
}

const std::string& run() {
  static const std::string path = [] {
    const Result made = tiny_zero("train" + kDemo + " --name trained --model " + base() +
                                  " --num-steps 10 --save-every 1 --prompts-per-step 2"
                                  " --group-size 2 --max-response-tokens 12");
    INFO(made.err);
    REQUIRE(made.code == 0);
    return workplace().string() + "/runs/trained";
  }();
  return path;
}

/// The message that ends a command.
std::string refusal(const std::string& arguments) {
  const Result result = tiny_zero(arguments);
  CAPTURE(arguments);
  CHECK(result.code == 1);
  return result.err.substr(std::min(result.err.size(), result.err.rfind("tiny_zero: ")));
}

/// The settings that a help text lists.
std::set<std::string> listed(const std::string& help) {
  std::set<std::string> names;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    const size_t dashes = line.find("--");
    if (dashes < 7 && line.starts_with("  "))
      names.insert(line.substr(dashes + 2, line.find_first_of(" [", dashes) - dashes - 2));
  }
  return names;
}

}  // namespace

TEST_CASE("a flag without effect is refused with what would give it effect") {
  const std::string train = "train" + kDemo + " --name vain --num-steps 1 --model " + base();
  const std::vector<std::tuple<std::string, std::string, std::vector<std::string>>> cases{
      {train + " --lambda 0.3", "lambda", {"algorithm = grpo", "needs algorithm = ppo"}},
      {train + " --value-coef 0.3", "value-coef", {"algorithm = grpo", "algorithm = ppo"}},
      {train + " --value-coef 1 --algorithm ppo --critic separate", "value-coef", {"shared"}},
      {train + " --clip-low 0.1 --mini-batches 1", "clip-low", {"mini-batches = 1", "epochs > 1"}},
      {train + " --kl-coef 5", "kl-coef", {"kl = none", "needs kl != none"}},
      {train + " --group-std none --algorithm ppo", "group-std", {"algorithm = grpo"}},
      {train + " --final-learning-rate 0 --schedule constant", "final-learning-rate", {"schedule"}},
      {train + " --truncated keep --truncation-penalty -0.5",
       "truncation-penalty",
       {"truncated = penalise"}},
      {train + " --math-template orz", "math-template", {"task = countdown", "needs task = math"}},
      {train + " --task multiplication --countdown-count-max 3",
       "countdown-count-max",
       {"task = multiplication", "needs task = countdown"}},
      {train + " --countdown-go-on 0.5", "countdown-go-on", {"in train", "only in pretrain"}},
      {train + " --pretrain-tokens 5", "pretrain-tokens", {"in train", "only in pretrain"}},
      {train + " --eval-samples 5", "eval-samples", {"in train", "only in eval"}},
      {"pretrain" + kDemo + " --name vain --model " + base(), "model", {"in pretrain", "train"}},
      {"pretrain" + kDemo + " --name vain --save-every 5", "save-every", {"in pretrain"}},
      {"pretrain" + kDemo + " --name vain --learning-rate 1", "learning-rate", {"in pretrain"}},
      {"generate --model " + base() + " --prompt hi --problem 3",
       "problem",
       {"beside --prompt", "leave one"}},
      {"generate --model " + base() + " --chat qwen --problem 3", "chat", {"beside --problem"}},
      {"generate --model " + base() + " --prompt hi --countdown-template chat",
       "countdown-template",
       {"without --problem"}},
      {"eval --model " + base() + " --temperature 0 --top-p 0.5", "top-p", {"temperature > 0"}},
      {"score --model " + base() + " --top-p 0.5", "top-p", {"in score", "eval"}},
      {"tokenize --model " + base() + " --device cuda", "device", {"in tokenize"}},
      {"export --model " + base() + " --name x", "name", {"in export"}},
      {"grade --math-template orz", "math-template", {"needs task = math"}},
      {"eval --resume --model " + base(), "resume", {"in eval", "train"}},
      {"bench --learning-rate 1", "learning-rate", {"in bench", "train"}}};
  for (const auto& [arguments, setting, parts] : cases) {
    const std::string message = refusal(arguments);
    CAPTURE(message);
    CHECK(message.starts_with("tiny_zero: --" + setting + " has no effect "));
    for (const auto& part : parts) {
      CAPTURE(part);
      CHECK(contains(message, part));
    }
  }
  CHECK(!fs::exists(workplace().string() + "/runs/vain"));
  for (const std::string works :
       {" --lambda 0.3 --algorithm ppo", " --kl-coef 5 --kl reward", " --clip-low 0.1 --epochs 2",
        " --truncation-penalty -0.5 --truncated penalise"}) {
    CAPTURE(works);
    const Result result = tiny_zero("plan" + kDemo + " --model " + base() + works);
    INFO(result.err);
    CHECK(result.code == 0);
  }
}

TEST_CASE("a recipe's settings without effect are noted once, those of other verbs not at all") {
  base();
  const Result plan = tiny_zero("plan" + kDemo + " --model " + base());
  const size_t note = plan.out.find("# without effect in " + kRecipes + "demo.conf: ");
  REQUIRE(note != std::string::npos);
  const std::string line = plan.out.substr(note, plan.out.find('\n', note) - note);
  CHECK(line.ends_with("demo.conf: critic value-coef (needs algorithm = ppo)"));
  CHECK(plan.out.find("without effect", note + 9) == std::string::npos);
  CHECK(!contains(tiny_zero("plan --algorithm ppo" + kDemo + " --model " + base()).out,
                  "without effect"));
  // The recipe of another task, chosen or not.
  const std::string math = kRecipes + "../../math/recipes/open_reasoner_zero.conf";
  CHECK(contains(tiny_zero("plan --recipe " + math + " --model " + base()).out,
                 "(needs task = math)"));
  CHECK(!contains(tiny_zero("plan --task math --recipe " + math + " --model " + base()).out,
                  "task = math)"));
  // In a pipe it goes to standard error, and standard output holds JSON alone.
  const std::string greedy = write_file("greedy.conf", "temperature = 0\ntop-p = 0.5\nseed = 3\n");
  const Result piped =
      tiny_zero("generate --max-response-tokens 3 --model " + base() + " --recipe " + greedy +
                " <" + write_file("prompts.jsonl", "{\"prompt\": \"use 1\"}\n"));
  CHECK(piped.code == 0);
  CHECK(contains(piped.err, "# without effect in " + greedy + ": top-p (needs temperature > 0)\n"));
  CHECK(json::parse(piped.out)["prompt"] == "use 1");
}

TEST_CASE("a recipe may be a pipe, and unknown lines of a run's settings do not hide its task") {
  const std::string run = workplace().string() + "/odd";
  std::filesystem::create_directories(run);
  std::filesystem::copy(base() + "/model", run + "/model",
                        std::filesystem::copy_options::recursive);
  write_file("odd/settings.conf", "retired-setting = 1\ncountdown-template = short\n");
  const std::string recipe = write_file("seven.conf", "max-response-tokens = 7\n");
  const Result result =
      tiny_zero("eval --threads 1 --show-settings --eval-problems 2 --model odd --recipe <(cat " +
                recipe + ")");
  CAPTURE(result.err);
  CHECK(result.code == 0);
  CHECK(contains(result.out, "max-response-tokens = 7\n"));
  CHECK(contains(result.out, "countdown-template = short\n"));
}

TEST_CASE("names of papers, one dash and underscores are answered on the command line") {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"--beta 0.1", "kl-coef"},
      {"--epsilon 0.2", "clip-low and clip-high"},
      {"--clip=0.2", "clip-low and clip-high"},
      {"--lr 1e-6", "learning-rate"},
      {"--G 8", "group-size"},
      {"-G 8", "group-size"},
      {"--n 8", "group-size"},
      {"-beta 0.1", "kl-coef"},
      {"-lambda 0.1", "settings take two: --lambda"},
      {"-threads=1", "settings take two: --threads=1"},  // has an h, which is no call for help
      {"--kl_coef=1", "\"kl-coef\""},
      {"--learning_rate 1", "\"learning-rate\""},
      {"--temp 1", "temperature"},
      {"--gae-lambda 1", "lambda"},
      {"demo.conf", "--recipe FILE"},
      {"--greedy false", "--name=false"}};
  for (const auto& [typed, answer] : cases) {
    const std::string message = refusal((typed[2] == 'g' ? "eval " : "train ") + typed);
    CAPTURE(message);
    CHECK(contains(message, answer));
  }
  const std::string recipe = write_file("beta.conf", "beta = 0.1\n");
  CHECK(contains(refusal("train --recipe " + recipe), recipe + ":1: "));
  for (const std::string typed : {"report --name=-ab", "report --name -ab"})  // a value's dash
    CHECK(contains(refusal(typed), "runs/-ab/metrics.jsonl"));
}

TEST_CASE("a run, a checkpoint or a model directory: eval asks what the run was trained on") {
  const auto evaluate = [](const std::string& arguments) {
    const Result result = tiny_zero("eval --threads 1 --eval-problems 4 --json - " + arguments);
    INFO(result.err);
    REQUIRE(result.code == 0);
    json report = json::parse(result.out);
    report.erase("seconds");
    return std::pair(report, result.err);
  };
  run();
  const std::string newest = run() + "/checkpoints/step_10/model";
  const auto [explicitly, silent] =
      evaluate("--model " + newest + kDemo + " --max-response-tokens 12");
  CHECK(explicitly["model"] == newest);
  for (const std::string& model : {run(), run() + "/", newest, newest + "/",
                                   run() + "/checkpoints/step_10", std::string("runs/trained")}) {
    CAPTURE(model);
    auto [report, log] = evaluate("--model " + model);
    CHECK(fs::weakly_canonical(fs::path(workplace()) / report["model"].get<std::string>() / "") ==
          fs::weakly_canonical(newest + "/"));
    report["model"] = newest;
    CHECK(report == explicitly);  // the recipe's task, and 12 tokens of a response at most
    CHECK(contains(log, "# task and sampling settings of "));
    CHECK(contains(log, "trained/settings.conf\n"));
  }
  const json older = evaluate("--model " + run() + "/checkpoints/step_9/model").first;
  CHECK(contains(older["model"], "step_9"));
  CHECK(evaluate("--model " + base()).first["model"] == base() + "/model");
  // Flags and recipes come last.
  const json longer = evaluate("--max-response-tokens 20 --model " + run()).first;
  CHECK(longer["response_tokens_mean"] > explicitly["response_tokens_mean"]);
  const std::string recipe = write_file("length.conf", "max-response-tokens = 20\n");
  CHECK(evaluate("--recipe " + recipe + " --model " + run()).first == longer);
  // The other verbs find the model too; train and plan do not take over the run's settings.
  const Result generated = tiny_zero("generate --problem 0 --model " + run());
  CHECK(generated.code == 0);
  CHECK(generated.out.starts_with("use "));
  const Result scored =
      tiny_zero("score --model " + run() + " <" +
                write_file("score.jsonl", "{\"prompt\":\"1\",\"response\":\"2\"}"));
  CHECK(scored.code == 0);
  CHECK(scored.err == "");
  CHECK(contains(read_file(run() + "/settings.conf"), "model = " + base() + "/model\n"));
}

TEST_CASE("a model that is not there: nothing is downloaded, and how to get it") {
  const std::string hub = refusal("eval --model Qwen/Qwen2.5-3B");
  CAPTURE(hub);
  CHECK(contains(hub, "nothing is downloaded"));
  CHECK(
      contains(hub, "hf download Qwen/Qwen2.5-3B --local-dir Qwen2.5-3B, then --model Qwen2.5-3B"));
  base();
  for (const std::string name : {"runs/typo", "/no/such/model", "typo", "a/b/c"}) {
    const std::string message = refusal("tokenize --model " + name);
    CAPTURE(message);
    CHECK(contains(message, "\"" + name + "\", which is no directory"));
    CHECK(!contains(message, "hf download"));
  }
}

TEST_CASE("the settings printed are the recipe's name and the flags, or all of them") {
  const std::string plan = "plan --group-size 4 --model " + base() + kDemo;
  const std::string brief = tiny_zero(plan).out;
  CAPTURE(brief);
  CHECK(brief.starts_with("# settings: " + kRecipes + "demo.conf, except"));
  CHECK(contains(brief, "\ngroup-size = 4\n"));
  CHECK(contains(brief, "\nmodel = " + base() + "/model\n"));
  CHECK(!contains(brief, "prompts-per-step"));
  CHECK(!contains(tiny_zero(plan + " --show-settings=false").out, "prompts-per-step"));
  const std::string all = tiny_zero(plan + " --show-settings").out;
  CHECK(contains(all, "\ngroup-size = 4\n"));
  CHECK(contains(all, "\nprompts-per-step = 32\n"));
  CHECK(contains(all, "\nbeta2 = 0.95\n"));
  CHECK(!contains(all, "eval-samples"));
  const Result pipe = tiny_zero("tokenize --show-settings --model " + base());
  CHECK(pipe.out == "");
  CHECK(contains(pipe.err, "\ndecode = false\n"));
  CHECK(tiny_zero("tokenize --model " + base()).err == "");
}

TEST_CASE("--version tells the program's and LibTorch's version and what was built for CUDA") {
  const Result version = tiny_zero("--version");
  CHECK(version.code == 0);
  std::istringstream words(version.out);
  std::string name, number, libtorch, torch_number;
  words >> name >> number >> libtorch >> torch_number;
  CHECK(name == "tiny_zero");
  CHECK(std::count(number.begin(), number.end(), '.') == 2);
  CHECK(libtorch == "LibTorch");
  CHECK(std::isdigit(static_cast<unsigned char>(torch_number[0])));
  CHECK(contains(version.out, "\nCUDA kernels: "));
}

TEST_CASE("--help lists what a verb reads, and one section of it") {
  const std::set<std::string> always{"recipe", "threads", "show-settings"};
  const std::vector<std::pair<std::string, std::set<std::string>>> verbs{
      {"tokenize", {"model", "decode", "on-error"}},
      {"score", {"model", "device", "compute-type", "temperature", "chat", "on-error"}},
      {"decontaminate", {"against", "on-error"}},
      {"export", {"model", "output", "export-type"}},
      {"report", {"name", "runs-dir", "expected"}}};
  for (auto [verb, expected] : verbs) {
    CAPTURE(verb);
    expected.insert(always.begin(), always.end());
    std::set<std::string> names = listed(tiny_zero(verb + " --help").out);
    names.erase("help");
    CHECK((names == expected));
  }
  const Result loss = tiny_zero("train --help loss");
  CHECK(loss.code == 0);
  CHECK((listed(loss.out) == std::set<std::string>{"policy-loss", "clip-low", "clip-high",
                                                   "tis-cap", "aggregation", "entropy-coef", "kl",
                                                   "kl-coef", "reference-every"}));
  CHECK(contains(loss.out, "needs kl != none"));
  const std::string unknown = refusal("train --help los");
  CHECK(contains(unknown, "train has no section \"los\""));
  CHECK(contains(unknown, "\n  loss\n"));
  CHECK(contains(refusal("eval --help loss"), "\n  evaluation"));
}
