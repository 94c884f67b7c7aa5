#include "tiny_zero/settings/progress.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>

namespace tiny_zero {
namespace {

volatile std::sig_atomic_t caught_signal = 0;

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  char text[32];
  std::snprintf(text, sizeof text, "%ld:%02ld", static_cast<long>(whole / 60),
                static_cast<long>(whole % 60));
  return text;
}

}  // namespace

Progress::Progress(int64_t first_step, int64_t num_steps)
    : first_(first_step),
      total_(num_steps),
      done_(first_step),
      terminal_(isatty(STDOUT_FILENO) == 1) {}

void Progress::clear_bar() const {
  if (terminal_) std::printf("\r\033[K");
}

void Progress::finish(const std::string& line) {
  clear_bar();
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Progress::show(const nlohmann::ordered_json& metrics) {
  clear_bar();
  done_ = metrics.at("step").get<int64_t>() + 1;
  const auto number = [&](const char* name) {
    return metrics.at(name).is_number() ? metrics.at(name).get<double>() : 0.0;
  };
  std::printf(
      "step %4ld  reward %.3f  right %.3f  tokens %5.1f  reflects %.2f  truncated %.2f  entropy "
      "%.2f  "
      "grad %.2f  "
      "%5.0f+%-5.0f tok/s  %.1f s\n",
      static_cast<long>(done_ - 1), number("reward_mean"), number("accuracy"),
      number("response_tokens_mean"), number("reflection_rate"), number("truncated_rate"),
      number("entropy"), number("grad_norm"), number("rollout_tokens_per_s"),
      number("update_tokens_per_s"), number("step_s"));
  if (metrics.contains("skipped")) {
    std::printf(
        "  update skipped: the %s was not finite; the batch is saved in the run's directory\n",
        metrics.at("skipped").get<std::string>().c_str());
  }
  if (terminal_) {
    const double elapsed =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double left =
        elapsed / static_cast<double>(done_ - first_) * static_cast<double>(total_ - done_);
    constexpr int64_t kWidth = 40;
    const int64_t filled = total_ > 0 ? kWidth * done_ / total_ : kWidth;
    std::printf("[%s%s] %ld/%ld  %s left", std::string(filled, '#').c_str(),
                std::string(kWidth - filled, '.').c_str(), static_cast<long>(done_),
                static_cast<long>(total_), duration_text(left).c_str());
  }
  std::fflush(stdout);
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
