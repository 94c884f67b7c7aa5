#pragma once
// What a run shows while it works: one line a step, a bar with the time left on a terminal, and
// Ctrl-C.

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace tiny_zero {

class Stopwatch {
 public:
  /// Seconds since the last lap.
  double lap() {
    const auto now = std::chrono::steady_clock::now(), last = std::exchange(last_, now);
    return std::chrono::duration<double>(now - last).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

class Progress {
 public:
  Progress(int64_t first_step, int64_t num_steps);
  /// Prints the step's line, from the object that goes to metrics.jsonl, and on a terminal redraws
  /// the bar.
  void show(const nlohmann::ordered_json& metrics);
  /// Removes the bar and prints a last line.
  void finish(const std::string& line);

 private:
  void clear_bar() const;

  int64_t first_, total_, done_;
  bool terminal_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// From here on INT (Ctrl-C), TERM and HUP set interrupted(), for verbs that can save; a second one
/// ends the program at once. One that is ignored already, as under nohup, stays ignored.
void catch_signals();
bool interrupted();
int exit_code();  // 128 + the signal, or 0

}  // namespace tiny_zero
