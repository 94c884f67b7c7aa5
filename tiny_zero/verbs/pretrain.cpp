#include "tiny_zero/verbs/pretrain.h"

#include <cstdio>
#include <optional>

#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/next_token.h"

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
  const torch::Device device(config.device);
  RunDirectory directory(config, settings);
  const Tokenizer tokenizer = Tokenizer::from_json(task.tokenizer_json(), "the task's tokenizer");
  ModelConfig shape =
      ModelConfig::from_settings(config, static_cast<int64_t>(tokenizer.vocab_size()));
  shape.end_ids = {tokenizer.token_id("<|endoftext|>").value()};
  NextTokenTraining training{.verb = "pretrain",
                             .log_every = 20,
                             .save_every = 1000,
                             .side_files = {{"tokenizer.json", task.tokenizer_json()}}};
  std::optional<Learner> learner;
  if (config.resume) {
    const Checkpoint& checkpoint = directory.checkpoint();
    learner = Learner::load(checkpoint.path, "model", Head::language_model, device, config);
    training.resume(checkpoint);
  } else {
    const auto seed = static_cast<uint64_t>(config.seed);
    learner.emplace(Model(shape, Head::language_model, seed, device), config);
  }
  directory.start();
  std::printf("pretraining %ld parameters on %ld tokens\n",
              static_cast<long>(learner->model.parameters().numel()),
              static_cast<long>(config.pretrain_tokens));
  training.run(*learner, directory, config, training.tokens, config.pretrain_tokens, [&] {
    const TextBatch batch = next_batch(task, tokenizer, shape.end_ids[0],
                                       config.pretrain_batch_tokens, training.cursor, device);
    const double warmup = static_cast<double>(config.pretrain_warmup_updates);
    const double ramp = training.update < config.pretrain_warmup_updates
                            ? static_cast<double>(training.update + 1) / warmup
                            : 1;
    learner->model.set_residual_scale(ramp);
    const double learning_rate =
        ramp * config.pretrain_learning_rate *
        (1 - static_cast<double>(training.tokens) / static_cast<double>(config.pretrain_tokens));
    const Tensor loss = next_token_loss(learner->model, batch);
    loss.backward();
    training.tokens += batch.tokens.count();
    return std::pair{loss.item<double>(), learning_rate};
  });
}

}  // namespace tiny_zero
