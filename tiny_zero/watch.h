#pragma once
// Notices a run that cannot get better, from the metrics of its steps.

#include <map>
#include <string>

#include "tiny_zero/files/json.h"

namespace tiny_zero {

struct Watch {
  bool compares_groups;  // equal rewards in a group leave nothing to learn, as under GRPO
  std::map<std::string, int64_t> counts = {};  // all that a checkpoint needs to keep
  std::string verdict = {};  // why the run should end: ten updates in a row were skipped; else ""

  /// Counts a step by its metrics.   @return what to tell the user, "" if nothing: a skipped update
  /// each time, what has lasted for ten steps once in a run
  std::string look(const Json& metrics);
  /// Whether a step whose update is skipped still gets a dump: the first three of a run.
  bool wants_dump() { return counts["skipped"] < 3; }
};

}  // namespace tiny_zero
