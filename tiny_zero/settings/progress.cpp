#include "tiny_zero/settings/progress.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace tiny_zero {
namespace {

volatile std::sig_atomic_t caught_signal = 0;

}  // namespace

std::string status_line(const nlohmann::ordered_json& metrics) {
  const auto seconds = metrics.at("step_s").get<double>();
  std::string line = format(seconds < 9.95 ? "step %2ld %.1fs" : "step %2ld %.0fs",
                            metrics.at("step").get<long>(), seconds);
  for (const auto& [name, form] :
       {std::pair<std::string, const char*>{"accuracy", " accuracy %.3f"},
        {"reward_mean", " reward %.2f"},
        {"response_tokens_mean", " tokens %.0f"},
        {"kl", " kl %.3f"},
        {"clip_fraction", " clip %.2f"},
        {"explained_variance", " ev %.2f"},
        {"truncated_rate", " truncated %.2f"},
        {"entropy", " entropy %.2f"}}) {
    const auto& value = metrics.at(name);
    const bool off = value == 0 && name == "clip_fraction";  // one update a rollout
    const std::string field = value.is_number() && !off ? format(form, value.get<double>()) : "";
    if (line.size() + field.size() <= 80) line += field;
  }
  return line;
}

std::string bar_line(int64_t done, int64_t total, double seconds_left, const std::string& phase) {
  constexpr int64_t kWidth = 20;
  const int64_t filled = total > 0 ? kWidth * std::min(done, total) / total : kWidth;
  std::string line = "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') +
                     format("] %ld/%ld", done, total);
  const auto left = static_cast<long>(seconds_left + 0.5);
  if (left >= 3600)
    line += format("  %ld:%02ld:%02ld left", left / 3600, left / 60 % 60, left % 60);
  if (seconds_left >= 0 && left < 3600) line += format("  %ld:%02ld left", left / 60, left % 60);
  if (!phase.empty()) line += "  " + phase;
  return line.substr(0, 79);  // a full line would wrap
}

Progress::Progress(int64_t first, int64_t total, bool wanted)
    : first_(first), total_(total), done_(first), shown_(wanted && isatty(1) == 1) {}

void Progress::clear() const {
  if (shown_) std::printf("\r\033[K");
  std::fflush(stdout);
}

void Progress::show(int64_t done, const std::string& phase) {
  if (!shown_) return;
  done_ = done;
  elapsed_ += watch_.lap();
  if (elapsed_ < drawn_at_ + 0.1) return;
  drawn_at_ = elapsed_;
  const double left = done_ > first_ ? elapsed_ / (done_ - first_) * (total_ - done_) : -1;
  std::printf("\r\033[K%s", bar_line(done_, total_, left, phase).c_str());
  std::fflush(stdout);
}

std::function<void(int64_t, int64_t)> Progress::phase(const std::string& name) {
  if (!shown_) return {};
  return [this, name](int64_t part, int64_t parts) {
    show(done_, name + " " + std::to_string(part) + "/" + std::to_string(parts));
  };
}

void Progress::print(const std::string& line, std::FILE* to) {
  if (line.empty()) return;
  clear();
  std::fprintf(to, "%s\n", line.c_str());
  std::fflush(to);
  drawn_at_ = -1;  // the next show() draws at once
}

void catch_signals() {
  const auto handler = [](int signal) {
    if (caught_signal != 0) _exit(128 + signal);
    caught_signal = signal;
  };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) std::signal(signal, handler);
  }
}

bool interrupted() { return caught_signal != 0; }

int exit_code() { return caught_signal == 0 ? 0 : 128 + caught_signal; }

}  // namespace tiny_zero
