// A run's directory by itself: its lock, checkpoints, logs and settings, without a model.

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/resume.h"

using namespace tiny_zero;

namespace {

namespace fs = std::filesystem;

/// A run named x in a directory of its own, which is removed at the end.
struct Place {
  Place() {
    std::string name = (fs::temp_directory_path() / "tiny_zero_run_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    config.runs_dir = name;
    config.name = "x";
  }
  ~Place() { fs::remove_all(config.runs_dir); }
  fs::path run() const { return run_path(config); }

  /// Logs up to each of these steps and saves there, with a file of weights.
  void make(const std::vector<int64_t>& steps, int64_t keep = 100) {
    config.resume = false;
    RunDirectory directory(config, config.settings());
    directory.start();
    go_on(directory, 0, steps, keep);
  }
  static void go_on(RunDirectory& directory, int64_t step, const std::vector<int64_t>& steps,
                    int64_t keep = 100) {
    for (const int64_t next : steps) {
      for (; step < next; ++step) {
        directory.log_metrics({{"step", step}});
        directory.log_sample({{"step", step}, {"response", "1 + 2"}});
      }
      directory.save(step, {{"step", step}, {"cursor", 7 * step}}, keep, [&](const fs::path& path) {
        fs::create_directories(path / "model");
        write_text(path / "model" / "weights", std::string(3'000'000, static_cast<char>(step)));
      });
    }
  }
  RunDirectory resume() {
    config.resume = true;
    return RunDirectory(config, config.settings());
  }
  Config config;
};

std::map<std::string, std::string> read_tree(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[fs::relative(entry.path(), directory)] = {std::istreambuf_iterator<char>(file), {}};
  }
  return files;
}

std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.insert(entry.path().filename());
  return names;
}

template <class Function>
std::string message_of(const Function& function) {
  try {
    function();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

/// What the standard error gets meanwhile.
template <class Function>
std::string warnings_of(const Function& function) {
  std::ostringstream text;
  auto* const before = std::cerr.rdbuf(text.rdbuf());
  function();
  std::cerr.rdbuf(before);
  return text.str();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Flips the lowest bit of the byte at `position`, from the end if that is negative.
void flip_bit(const fs::path& path, int64_t position) {
  std::string bytes = read_text(path, "");
  if (position < 0) position += std::ssize(bytes);
  bytes.at(position) = static_cast<char>(bytes.at(position) ^ 1);
  write_text(path, bytes);
}

}  // namespace

TEST_CASE("run directory: a second process is refused with the first one's number") {
  const Place place;
  const std::string self = "process " + std::to_string(getpid()) + " on ";
  // Another process takes the lock and dies without a word: nothing is left in the way.
  if (const pid_t child = fork(); child == 0) {
    lock_run(place.run());
    _exit(0);
  } else {
    int status = 1;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(status == 0);
  }
  lock_run(place.run());
  const std::string message = message_of([&] { lock_run(place.run()); });
  CHECK(contains(message, place.run().string()));
  CHECK(contains(message, self));
  CHECK(contains(message, "--name"));
  lock_run(place.config.runs_dir + "/another");
}

TEST_CASE("run directory: of two new runs that know of no lock one fails, the other is whole") {
  Place place;
  RunDirectory first(place.config, place.config.settings());
  place.config.group_size = 3;
  RunDirectory second(place.config, place.config.settings());
  first.start();
  first.log_metrics({{"step", 0}});
  CHECK(contains(message_of([&] { second.start(); }), "settings.conf"));
  CHECK(contains(read_text(place.run() / "settings.conf", ""), "group-size = 16\n"));
  CHECK(read_text(place.run() / "metrics.jsonl", "") == "{\"step\":0}\n");
}

TEST_CASE("run directory: what is not a checkpoint is not removed, resumed from or read") {
  Place place;
  place.make({1});
  const fs::path all = place.run() / "checkpoints";
  const std::set<std::string> others{"step_best",  "step_",
                                     "step_-1",    "step_07",
                                     "step_9",     "step_99999999999999999999",
                                     "step_8",     "step_1_keep_this",
                                     "step_7.old", "notes"};
  fs::copy(all / "step_1", all / "step_1_keep_this", fs::copy_options::recursive);
  fs::copy(all / "step_1", all / "step_8", fs::copy_options::recursive);  // of another step
  for (const auto& name : others) fs::create_directories(all / name);
  write_text(all / "step_6", "a file");
  CHECK(newest_checkpoint(place.run()) == all / "step_1");
  std::optional<RunDirectory> directory;
  const std::string warnings = warnings_of([&] { directory.emplace(place.resume()); });
  for (const std::string name : {"step_9", "step_8", "step_6"}) CHECK(contains(warnings, name));
  CHECK(!contains(warnings, "keep_this"));
  CHECK(directory->checkpoint().path == all / "step_1");
  CHECK(directory->checkpoint()["cursor"].integer(0, 100) == 7);
  directory->start();
  const std::string moved = warnings_of([&] {
    Place::go_on(*directory, 1, {2, 3, 4, 5, 9}, /*keep=*/2);
  });
  auto expected = others;
  expected.insert({"step_5", "step_6", "step_9.kept"});  // 9 and 5 are the newest two
  CHECK(names_in(all) == expected);
  CHECK(contains(moved, "step_9.kept"));
  CHECK(fs::is_empty(all / "step_9.kept"));
  CHECK(newest_checkpoint(place.run()) == all / "step_9");
}

TEST_CASE("run directory: any damage of the newest checkpoint is found before anything changes") {
  const auto shorten = [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) - 1); };
  const auto edit = [](const fs::path& path, const std::string& from, const std::string& to) {
    std::string text = read_text(path, "");
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    write_text(path, text.replace(at, from.size(), to));
  };
  const std::vector<std::pair<std::string, std::function<void(const fs::path&)>>> damages{
      {"model/weights is damaged", [&](const auto& at) { flip_bit(at / "model/weights", 0); }},
      {"model/weights is damaged", [&](const auto& at) { flip_bit(at / "model/weights", -1); }},
      {"model/weights is damaged",
       [&](const auto& at) { flip_bit(at / "model/weights", 1'500'000); }},
      {"model/weights is damaged", [&](const auto& at) { shorten(at / "model/weights"); }},
      {"model/weights is damaged", [&](const auto& at) { fs::remove(at / "model/weights"); }},
      {"state.json is damaged", [&](const auto& at) { edit(at / "state.json", "28", "29"); }},
      {"state.json is damaged",
       [&](const auto& at) { edit(at / "state.json", "\"checksums\"", "\"checksumz\""); }},
      {"state.json has no checksum",
       [&](const auto& at) { edit(at / "state.json", "\"checksum\"", "\"chequesum\""); }}};
  for (const auto& [what, damage] : damages) {
    Place place;
    place.make({2, 4, 6});
    write_text(place.run() / "metrics.jsonl",
               read_text(place.run() / "metrics.jsonl", "") + "{\"step\": 6}\n");
    fs::rename(place.run() / "checkpoints/step_6", place.run() / "away");
    damage(place.run() / "checkpoints/step_4");
    const auto before = read_tree(place.run());
    const std::string message = message_of([&] { place.resume(); });
    CAPTURE(message);
    CHECK(contains(message, "step_4/" + what));
    CHECK(contains(message, "step_2 is sound"));
    CHECK((read_tree(place.run()) == before));
    const size_t command = message.find("mv ");  // the way out that is offered
    REQUIRE(command != std::string::npos);
    REQUIRE(std::system(message.substr(command).c_str()) == 0);
    RunDirectory directory = place.resume();
    CHECK(directory.checkpoint().path.filename() == "step_2");
    directory.start();
    CHECK(read_text(place.run() / "metrics.jsonl", "") == "{\"step\":0}\n{\"step\":1}\n");
  }
  Place place;  // a state that cannot be read makes no checkpoint
  place.make({2, 4});
  shorten(place.run() / "checkpoints/step_4/state.json");
  edit(place.run() / "checkpoints/step_4/state.json", "}", "");
  std::optional<RunDirectory> directory;
  const std::string warnings = warnings_of([&] { directory.emplace(place.resume()); });
  CHECK(contains(warnings, "step_4/state.json"));
  CHECK(directory->checkpoint().path.filename() == "step_2");
  flip_bit(place.run() / "checkpoints/step_2/model/weights", 5);
  const std::string none =
      warnings_of([&] { CHECK(contains(message_of([&] { place.resume(); }), "step_2")); });
  CHECK(contains(none, "step_4"));
}

TEST_CASE(
    "run directory: logs that do not fit the checkpoint are refused, missing ones begin anew") {
  for (const std::string log : {"metrics.jsonl", "samples.jsonl"}) {
    CAPTURE(log);
    Place place;
    place.make({2, 4});
    const std::string whole = read_text(place.run() / log, "");
    const std::string other = log == "metrics.jsonl" ? "samples.jsonl" : "metrics.jsonl";
    write_text(place.run() / other, read_text(place.run() / other, "") + "{\"later\": true}\n");
    fs::resize_file(place.run() / log, whole.size() - 1);
    const auto before = read_tree(place.run());
    const std::string message = message_of([&] { place.resume(); });
    CAPTURE(message);
    CHECK(contains(message, log));
    CHECK(contains(message, "shorter"));
    CHECK(contains(message, "step_2 is sound"));  // the log still has what that one needs
    CHECK((read_tree(place.run()) == before));

    fs::remove(place.run() / log);  // the way out
    const std::string warnings = warnings_of([&] {
      RunDirectory directory = place.resume();
      directory.start();
      Place::go_on(directory, 4, {5});
    });
    CHECK(contains(warnings, log));
    CHECK(contains(warnings, "missing"));
    CHECK(whole.find(read_text(place.run() / log, "")) == std::string::npos);
    CHECK(!contains(read_text(place.run() / other, ""), "later"));  // cut to the checkpoint
    CHECK(message_of([&] { place.resume(); }) == "no error");       // the two agree again
  }
  Place place;  // sizes that no log can have
  for (const std::string bytes : {"100000000000", "-1", "1e300", "\"many\"", "null"}) {
    CAPTURE(bytes);
    fs::remove_all(place.run());
    place.make({2});
    const fs::path state = place.run() / "checkpoints/step_2/state.json";
    Json object = read_json(state, "");
    object["log_bytes"]["metrics.jsonl"] = Json::parse(bytes);
    write_text(state, object.dump());
    const auto before = read_tree(place.run());
    CHECK(contains(message_of([&] { place.resume(); }), "step_2"));
    CHECK((read_tree(place.run()) == before));
  }
}

TEST_CASE(
    "run directory: without a checkpoint a run starts afresh, with one or a model it does not") {
  Place place;
  const auto start = [&] {
    place.config.resume = false;
    return message_of([&] { RunDirectory(place.config, place.config.settings()).start(); });
  };
  CHECK(start() == "no error");
  write_text(place.run() / "metrics.jsonl", "{\"step\": 0}\n{\"st");  // killed
  fs::create_directories(place.run() / "checkpoints/step_5.partial/model");
  const std::string nothing = message_of([&] { place.resume(); });
  CHECK(contains(nothing, "no checkpoint to resume; leave --resume out"));
  place.config.group_size = 3;
  CHECK(start() == "no error");
  CHECK(contains(read_text(place.run() / "settings.conf", ""), "group-size = 3\n"));
  CHECK(fs::file_size(place.run() / "metrics.jsonl") == 0);
  place.make({5});
  CHECK(contains(start(), "--resume continues it"));
  write_text(place.run() / "checkpoints/step_5/state.json", "{");  // the weights may still be good
  CHECK(contains(start(), "step_5"));
  CHECK(contains(start(), "move that away to start the run afresh"));
  CHECK(contains(message_of([&] { place.resume(); }), "mend one, or take another --name"));
  fs::remove_all(place.run() / "checkpoints");
  RunDirectory::write_whole(place.run() / "model",
                            [](const auto& path) { write_text(path / "config.json", "{}"); });
  CHECK(contains(start(), "finished model; another --name"));
  CHECK(contains(message_of([&] { place.resume(); }), "no checkpoint"));
  for (const std::string name : {"", ".", "..", "a/b", "/tmp"}) {
    place.config.name = name;
    CHECK(contains(start(), "plain directory name"));
  }
}

TEST_CASE("run directory: a process whose directory was replaced writes nothing into the new one") {
  Place place;
  RunDirectory first(place.config, place.config.settings());
  first.start();
  Place::go_on(first, 0, {1});
  fs::remove_all(place.run());
  const auto go_on = [&] { Place::go_on(first, 1, {2}); };
  CHECK(contains(message_of(go_on), "was removed or replaced"));
  place.make({1});  // somebody else's, under the same name
  const auto before = read_tree(place.run());
  CHECK(contains(message_of(go_on), "was removed or replaced"));
  CHECK((read_tree(place.run()) == before));
}

TEST_CASE("run directory: a fresh start keeps the logs of a run without checkpoints") {
  Place place;
  place.make({3});
  const std::string log = read_text(place.run() / "metrics.jsonl", "");
  fs::remove_all(place.run() / "checkpoints");
  const std::string told = warnings_of([&] { place.make({1}); });
  CHECK(contains(told, "metrics.jsonl.old"));
  CHECK(read_text(place.run() / "metrics.jsonl.old", "") == log);
  CHECK(read_text(place.run() / "metrics.jsonl", "") == "{\"step\":0}\n");
}

TEST_CASE("run directory: the settings that a resumption changes join settings.conf") {
  Place place;
  place.make({3});
  const fs::path own = place.run() / "settings.conf";
  const std::string before = read_text(own, "");
  place.resume().start();
  CHECK(read_text(own, "") == before);
  place.config.changes = "group-size = 4  # was 16\n";
  place.resume().start();
  CHECK(read_text(own, "") == before + "# from step_3 on\ngroup-size = 4  # was 16\n");
  Config read;
  read.settings().read_recipe(own);
  CHECK(read.group_size == 4);
  CHECK(names_in(place.run()) ==
        std::set<std::string>{"settings.conf", "metrics.jsonl", "samples.jsonl", "checkpoints"});
}

TEST_CASE("run directory: the command that continues a run survives the shell") {
  for (const std::string name :
       {"plain", "two words", "it's", "-x", "$HOME `id` \"q\" \\ * # ; &"}) {
    Config config;
    config.name = name;
    config.runs_dir = "my runs/" + name;
    const std::string command = resume_command("train", config);
    CAPTURE(command);
    const fs::path out = fs::temp_directory_path() / ("tiny_zero_" + std::to_string(getpid()));
    REQUIRE(std::system(
                ("set -- " + command + "; printf '%s\\n' \"$@\" >" + out.string()).c_str()) == 0);
    CHECK(read_text(out, "") == std::string(program_invocation_name) +
                                    "\ntrain\n--resume\n--runs-dir\nmy runs/" + name +
                                    "\n--name\n" + name + "\n");
    fs::remove(out);
  }
}
