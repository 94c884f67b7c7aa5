#pragma once
// What a run shows while it works: one line a step, on a terminal a bar with the time left, and
// what Ctrl-C does.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace tiny_zero {

/// printf into a string, of at most 127 bytes.
template <class... Values>
std::string format(const char* form, Values... values) {
  char text[128];
  std::snprintf(text, sizeof text, form, values...);
  return text;
}

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

/// A step's line, from the object that goes to metrics.jsonl: at most 80 columns. A figure that the
/// step does not have, or that no longer fits, is left out.
std::string status_line(const nlohmann::ordered_json& metrics);

/// "[####....] 12/40  3:20 left  sampling 96/512", less than 80 columns.
/// @param seconds_left  below 0 if not known yet
std::string bar_line(int64_t done, int64_t total, double seconds_left, const std::string& phase);

/// A bar below what is printed. Only a terminal shows it; elsewhere just the printed lines appear.
class Progress {
 public:
  /// @param first, total  what is done already and the whole work, in any unit
  /// @param wanted  false draws nothing, for a program whose standard output is its result
  Progress(int64_t first, int64_t total, bool wanted = true);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  /// Redraws the bar, ten times a second at most.
  void show(int64_t done, const std::string& phase = "");
  /// A callback for the parts of one unit of work, which the bar shows as "NAME part/parts"; empty
  /// where there is no bar.
  std::function<void(int64_t, int64_t)> phase(const std::string& name);
  /// Prints a line above the bar; "" prints nothing.
  void print(const std::string& line, std::FILE* to = stdout);
  void clear() const;  // removes the bar

 private:
  int64_t first_, total_, done_;
  bool shown_;
  double elapsed_ = 0, drawn_at_ = -1;  // seconds
  Stopwatch watch_;
};

/// From here on INT (Ctrl-C), TERM and HUP set interrupted(), for verbs that can save; a second one
/// ends the program at once. One that is ignored already, as under nohup, stays ignored.
void catch_signals();
bool interrupted();
int exit_code();  // 128 + the signal, or 0

}  // namespace tiny_zero
