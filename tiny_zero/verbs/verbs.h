#pragma once
// What the program can do: `tiny_zero VERB`.

#include <functional>
#include <string>
#include <vector>

#include "tiny_zero/settings/choices.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

struct Verb {
  std::string name, help;
  std::vector<std::string> reads;  // settings or whole sections; the tasks' come with "task"
  std::function<void(const Config&, const Settings&, const Task&)> run;
  bool like_run = false;    // a run's model is asked and sampled by default as it was trained
  bool writes_run = false;  // in RUNS-DIR/NAME, which is locked first; signals save it
  bool pipe = false;        // reads "pipes": JSON Lines in and out, so nothing else may be printed
};

std::vector<Verb> make_verbs();

/// Sections of the settings that say what is asked: the task's name, and each task's own.
std::vector<std::string> task_sections();

/// @throws std::invalid_argument if this machine does not have config.device, with what it has. A
/// `plan` for the memory that gpu-memory names needs no device.
void check_device(const Verb& verb, const Config& config);

}  // namespace tiny_zero
