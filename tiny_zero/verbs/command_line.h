#pragma once
// From the command line to the settings.

#include "tiny_zero/verbs/verbs.h"

namespace tiny_zero {

/// Reads what the verb starts from (with --resume the run's own settings, with a run as --model
/// those of its task), the recipe and the flags, flags last; prints what came of it, since each log
/// opens with the settings that made it.
/// @return false if --help was asked for, after printing it
/// @throws std::invalid_argument for what is unknown, not allowed or without effect
bool read_command_line(const std::vector<Verb>& verbs, const Verb& verb, int argc, char** argv,
                       Config& config, const Settings& settings);

}  // namespace tiny_zero
