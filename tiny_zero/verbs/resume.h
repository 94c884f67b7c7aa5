#pragma once
// What the verbs that write a run do before they start: lock it, and go on with its own settings.

#include <cxxopts.hpp>

#include "tiny_zero/files/run_directory.h"

namespace tiny_zero {

/// Keeps other processes from writing a run, whose directory it creates, until this one ends,
/// however it ends.   @throws std::runtime_error with the holder's process if another has the run
void lock_run(const std::filesystem::path& run);

/// Puts the flags of the command line into the settings.
void apply_flags(const Settings& settings, const cxxopts::ParseResult& given);

/// For --resume, after recipe and flags have said which run: puts the run's own settings, then the
/// flags into `config`, and what these change into config.changes. A recipe changes nothing; says
/// on the standard error where `recipe`, its text, differs.   @throws std::invalid_argument if
/// there is nothing to resume, or if a flag would make it another run (Setting::identity)
void read_own_settings(Config& config, const Settings& settings, const cxxopts::ParseResult& given,
                       const std::string& recipe);

}  // namespace tiny_zero
