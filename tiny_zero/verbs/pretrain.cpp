#include "tiny_zero/verbs/pretrain.h"

#include <cmath>
#include <cstdio>
#include <optional>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/files/tokenizer.h"
#include "tiny_zero/learner.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {
namespace {

using torch::Tensor;

struct TextBatch {
  PackedTokens tokens;             // documents, each ended by the end token
  std::vector<int64_t> positions;  // whose next token belongs to a response: the loss is over these
};

/// As many of the next documents as it takes to reach `batch_tokens`; moves `cursor` past them.
TextBatch next_batch(const Task& task, const Tokenizer& tokenizer, int64_t end_id,
                     int64_t batch_tokens, int64_t& cursor, const torch::Device& device) {
  std::vector<std::vector<int64_t>> documents;
  std::vector<int64_t> positions;
  for (int64_t start = 0; start < batch_tokens; ++cursor) {
    const Document document = task.document(cursor);
    std::vector<int64_t> ids = tokenizer.encode_prompt(document.prompt);
    const int64_t prompt_end = start + std::ssize(ids);
    for (const int64_t id : tokenizer.encode(document.response)) ids.push_back(id);
    ids.push_back(end_id);
    start += std::ssize(ids);
    for (int64_t i = prompt_end; i < start; ++i) positions.push_back(i - 1);
    documents.push_back(std::move(ids));
  }
  return {PackedTokens::from(documents, device), positions};
}

/// Mean cross-entropy over the tokens of the responses. Prompts are left out: nothing predicts
/// their random numbers.
/// @return scalar, nats per token
Tensor next_token_loss(const Model& model, const TextBatch& batch) {
  const Tensor index = torch::tensor(batch.positions, torch::kInt64).to(model.device());
  const Tensor hidden = model.hidden_states(batch.tokens);
  const Tensor targets = batch.tokens.ids.index_select(0, index + 1);
  const auto scores =
      model.log_probs(hidden, index, targets, /*temperature=*/1.0, /*with_entropy=*/false);
  return -scores.log_probs.mean();
}

}  // namespace

void pretrain(const Config& config, const Settings& settings, const Task& task) {
  constexpr int64_t kLogEvery = 20, kShowEvery = 200, kSaveEvery = 1000;  // updates
  const torch::Device device(config.device);
  RunDirectory directory(config, settings);
  const Tokenizer tokenizer = Tokenizer::from_json(task.tokenizer_json(), "the task's tokenizer");
  ModelConfig shape =
      ModelConfig::from_settings(config, static_cast<int64_t>(tokenizer.vocab_size()));
  shape.end_ids = {tokenizer.token_id("<|endoftext|>").value()};
  int64_t tokens = 0, cursor = 0, update = 0;
  double loss_sum = 0;  // since the last line of metrics
  std::optional<Learner> learner;
  if (config.resume) {
    const Checkpoint& checkpoint = directory.checkpoint();
    learner = Learner::load(checkpoint.path, "model", Head::language_model, device, config);
    update = checkpoint.count("step");
    tokens = checkpoint.count("tokens");
    cursor = checkpoint.count("cursor");
    loss_sum = checkpoint["loss_sum"].number();
  } else {
    const auto seed = static_cast<uint64_t>(config.seed);
    learner.emplace(Model(shape, Head::language_model, seed, device), config);
  }
  directory.start();
  const auto save_model = [&](const std::filesystem::path& path) {
    learner->save(path, "model");
    write_text(path / "model" / "tokenizer.json", task.tokenizer_json());
  };
  Progress progress(tokens, config.pretrain_tokens);
  progress.print("pretraining " + std::to_string(learner->model.parameters().numel()) +
                 " parameters on " + std::to_string(config.pretrain_tokens) + " tokens");
  Stopwatch watch;
  int64_t timed_tokens = tokens;
  while (tokens < config.pretrain_tokens) {
    const TextBatch batch =
        next_batch(task, tokenizer, shape.end_ids[0], config.pretrain_batch_tokens, cursor, device);
    const double learning_rate =
        config.pretrain_learning_rate *
        (1 - static_cast<double>(tokens) / static_cast<double>(config.pretrain_tokens));
    const Tensor loss = next_token_loss(learner->model, batch);
    loss.backward();
    learner->step(learning_rate);
    tokens += batch.tokens.count();
    loss_sum += loss.item<double>();
    if (++update % kLogEvery == 0) {
      const double speed = std::round(static_cast<double>(tokens - timed_tokens) / watch.lap());
      const double mean_loss = std::exchange(loss_sum, 0.0) / kLogEvery;
      timed_tokens = tokens;
      directory.log_metrics({{"step", update},
                             {"tokens", tokens},
                             {"loss", mean_loss},
                             {"lr", learning_rate},
                             {"tokens_per_s", speed}});
      if (update % kShowEvery == 0) {
        char line[100];
        std::snprintf(line, sizeof line, "update %5ld  %8ld tokens  loss %.3f  %.0f tokens/s",
                      static_cast<long>(update), static_cast<long>(tokens), mean_loss, speed);
        progress.print(line);
      }
    }
    progress.show(tokens);
    const bool stop = interrupted();  // asked once, so that what is said is what was done
    if (update % kSaveEvery == 0 || stop) {
      const Json state = {
          {"step", update}, {"tokens", tokens}, {"cursor", cursor}, {"loss_sum", loss_sum}};
      directory.save(update, state, config.keep_checkpoints, save_model);
    }
    if (stop) {
      progress.clear();
      std::printf("stopped and saved; continue with: %s\n",
                  resume_command("pretrain", config).c_str());
      return;
    }
  }
  RunDirectory::write_whole(directory.path() / "model", [&](const std::filesystem::path& path) {
    learner->model.save(path);
    write_text(path / "tokenizer.json", task.tokenizer_json());
  });
  progress.print("model in " + (directory.path() / "model").string());
}

}  // namespace tiny_zero
