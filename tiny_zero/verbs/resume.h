#pragma once
// What the verbs that write a run do before they start: lock it.

#include "tiny_zero/files/run_directory.h"

namespace tiny_zero {

/// Keeps other processes from writing a run, whose directory it creates, until this one ends,
/// however it ends.   @throws std::runtime_error with the holder's process if another has the run
void lock_run(const std::filesystem::path& run);

}  // namespace tiny_zero
