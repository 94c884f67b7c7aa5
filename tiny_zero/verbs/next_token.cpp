#include "tiny_zero/verbs/next_token.h"

#include <cmath>
#include <cstdio>

#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {

void NextTokenTraining::resume(const Checkpoint& checkpoint) {
  if (checkpoint.state.value("data", "") != data)
    throw std::invalid_argument(checkpoint.path.string() + " was saved with other data than " +
                                verb + " finds now: bring them back, or take another --name");
  update = checkpoint.count("step");
  tokens = checkpoint.count("tokens");
  cursor = checkpoint.count("cursor");
  loss_sum = checkpoint["loss_sum"].number();
}

void NextTokenTraining::run(Learner& learner, RunDirectory& directory, const Config& config,
                            const int64_t& done, int64_t total,
                            const std::function<std::pair<double, double>()>& accumulate) {
  const auto save_model = [&](const std::filesystem::path& path) {
    learner.save(path, "model");
    write_side_files(path / "model", side_files);
  };
  Progress progress(done, total);
  Stopwatch watch;
  int64_t timed_tokens = tokens;
  while (done < total) {
    const auto [loss, learning_rate] = accumulate();
    const double norm = learner.step(learning_rate);
    if (!std::isfinite(norm))
      throw std::runtime_error("update " + std::to_string(update) +
                               ": the gradient is not finite; a lower learning rate may help");
    loss_sum += loss;
    if (++update % log_every == 0) {
      const double speed = std::round((tokens - timed_tokens) / watch.lap());
      const double mean_loss = std::exchange(loss_sum, 0.0) / log_every;
      timed_tokens = tokens;
      const Json line = {{"step", update},      {"tokens", tokens},  {"loss", mean_loss},
                         {"lr", learning_rate}, {"grad_norm", norm}, {"tokens_per_s", speed}};
      directory.log_metrics(line);
      if (update % (10 * log_every) == 0)
        progress.print(format("update %5ld  %8ld tokens  loss %.3f  %.0f tokens/s", update, tokens,
                              mean_loss, speed));
    }
    progress.show(done);
    const bool stop = interrupted();  // asked once, so that what is said is what was done
    if (update % save_every == 0 || stop) {
      const Json state = {{"step", update},
                          {"tokens", tokens},
                          {"cursor", cursor},
                          {"loss_sum", loss_sum},
                          {"data", data}};
      directory.save(update, state, config.keep_checkpoints, save_model);
    }
    if (stop) {
      progress.clear();
      std::printf("stopped and saved; continue with: %s\n", resume_command(verb, config).c_str());
      return;
    }
  }
  RunDirectory::write_whole(directory.path() / "model", [&](const std::filesystem::path& path) {
    learner.model.save(path);
    write_side_files(path, side_files);
  });
  progress.print("model in " + (directory.path() / "model").string());
}

}  // namespace tiny_zero
