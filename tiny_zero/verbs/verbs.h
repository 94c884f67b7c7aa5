#pragma once
// What the program can do: `tiny_zero VERB`.

#include <functional>
#include <string>
#include <vector>

#include "tiny_zero/settings/config.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

struct Verb {
  std::string name, help;
  std::vector<std::string>
      sections;  // of the settings that it reads; those of the tasks come on top
  std::function<void(const Config&, const Settings&, const Task&)> run;
  bool pipe = false;        // reads and writes JSON Lines, so nothing else may be printed
  bool writes_run = false;  // in RUNS-DIR/NAME, which is locked first
};

std::vector<Verb> make_verbs();

}  // namespace tiny_zero
