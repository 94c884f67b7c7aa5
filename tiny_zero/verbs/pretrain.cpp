#include "tiny_zero/verbs/pretrain.h"

#include <cstdio>

#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/next_token.h"

namespace tiny_zero {
namespace {

/// As many of the next documents as it takes to reach `batch_tokens`, each ended by the end token;
/// moves `cursor` past them. Prompts are not learnt: nothing predicts their random numbers.
ScoringBatch next_batch(const Task& task, const Tokenizer& tokenizer, int64_t end_id,
                        int64_t batch_tokens, int64_t& cursor, const torch::Device& device) {
  std::vector<std::vector<int64_t>> documents;
  std::vector<int64_t> positions, targets;
  for (int64_t start = 0; start < batch_tokens; ++cursor) {
    const Document document = task.document(cursor);
    std::vector<int64_t> ids = tokenizer.encode_prompt(document.prompt);
    std::vector<int64_t> response = tokenizer.encode(document.response);
    response.push_back(end_id);
    for (const int64_t id : response) {
      positions.push_back(start + std::ssize(ids) - 1);
      targets.push_back(id);
      ids.push_back(id);
    }
    start += std::ssize(ids);
    documents.push_back(std::move(ids));
  }
  return {PackedTokens::from(documents, device), torch::tensor(positions).to(device),
          torch::tensor(targets).to(device), /*rows=*/{}, /*columns=*/{}};
}

}  // namespace

void pretrain(const Config& config, const Settings& settings, const Task& task) {
  const torch::Device device(config.device);
  RunDirectory directory(config, settings);
  const Tokenizer tokenizer = Tokenizer::from_json(task.tokenizer_json(), "the task's tokenizer");
  ModelConfig shape = ModelConfig::from_settings(config, tokenizer.vocab_size());
  shape.end_ids = {tokenizer.token_id("<|endoftext|>").value()};
  const int64_t least = config.pretrain_warmup_updates * config.pretrain_batch_tokens;
  if (config.pretrain_tokens < least)  // a post-norm model is left within its ramp
    std::fprintf(stderr, "pretrain-tokens is %ld, want %ld for all of pretrain-warmup-updates\n",
                 config.pretrain_tokens, least);
  NextTokenTraining training{.verb = "pretrain",
                             .log_every = 20,
                             .save_every = 1000,
                             .side_files = {{"tokenizer.json", task.tokenizer_json()}}};
  Learner learner = config.resume
                        ? Learner::load(directory.checkpoint().path, "model", Head::language_model,
                                        device, config)
                        : Learner(Model(shape, Head::language_model, config.seed, device), config);
  if (config.resume) training.resume(directory.checkpoint());
  directory.start();
  std::printf("pretraining %ld parameters on %ld tokens\n", learner.model.parameters().numel(),
              config.pretrain_tokens);
  training.run(learner, directory, config, training.tokens, config.pretrain_tokens, [&] {
    const ScoringBatch batch = next_batch(task, tokenizer, shape.end_ids[0],
                                          config.pretrain_batch_tokens, training.cursor, device);
    const double warmup = config.pretrain_warmup_updates, total = config.pretrain_tokens;
    const double ramp = std::min(1.0, (training.update + 1) / warmup);  // 1 without a warm-up
    learner.model.set_residual_scale(ramp);
    const double rate = ramp * config.pretrain_learning_rate * (1 - training.tokens / total);
    const torch::Tensor loss = -batch.log_probs(learner.model, /*temperature=*/1).mean();
    loss.backward();
    training.tokens += batch.tokens.count();
    return std::pair{loss.item<double>(), rate};
  });
}

}  // namespace tiny_zero
