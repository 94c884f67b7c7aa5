#include "tiny_zero/verbs/sft.h"

#include <iostream>

#include "tiny_zero/random.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/next_token.h"

namespace tiny_zero {
namespace {

/// A line of the data: the tokens of prompt, response and end token. Four bytes each, as all
/// examples stay in memory.
struct Example {
  std::vector<int32_t> ids;
  int64_t prompt_tokens = 0;
};

/// Reads all examples, so that a line that cannot be used is found before the first update.
/// @param hash  gets a hash of the lines
std::vector<Example> read_examples(const std::string& path, const Tokenizer& tokenizer,
                                   const ModelConfig& shape, std::string& hash) {
  if (shape.end_ids.empty())
    throw std::invalid_argument(
        "the model has no end token to learn, want eos_token_id in its config.json");
  if (path.empty()) throw std::invalid_argument("data is empty, want a file: --data FILE");
  std::ifstream file = open_text(path, "--data wants {\"prompt\", \"response\"} lines");
  std::vector<Example> examples;
  std::string line;
  uint64_t state = 0;
  for (int64_t number = 0; next_row(file, line, number, path);) try {
      state = mix_text(line + '\n', state);
      const auto row = parse_json<nlohmann::json>(line, "");
      Example example;
      for (const char* key : {"prompt", "response"}) {
        const Field field = Field{row, "the line"}[key];
        const bool is_prompt = example.ids.empty();
        const auto ids =
            is_prompt ? tokenizer.encode_prompt(field.text()) : tokenizer.encode(field.text());
        if (ids.empty()) field.fail("a text that is not empty");
        if (is_prompt) example.prompt_tokens = std::ssize(ids);
        example.ids.insert(example.ids.end(), ids.begin(), ids.end());
      }
      if (example.ids.back() != shape.end_ids[0])
        example.ids.push_back(static_cast<int32_t>(shape.end_ids[0]));
      if (std::ssize(example.ids) > shape.max_positions)
        throw std::invalid_argument("has " + std::to_string(example.ids.size()) +
                                    " tokens with the end token, want at most the model's " +
                                    std::to_string(shape.max_positions) + ": leave the line out");
      examples.push_back(std::move(example));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(path + ":" + std::to_string(number) + ": " + error.what());
    }
  if (examples.empty())
    throw std::invalid_argument(path + " is empty, want {\"prompt\", \"response\"} lines");
  hash = std::to_string(state);
  return examples;
}

/// Examples `first` to `last` of the endless sequence, as a rollout whose responses are learnt.
Rollout take_examples(const std::vector<Example>& examples, int64_t first, int64_t last,
                      uint64_t seed) {
  Rollout batch;
  std::vector<torch::Tensor> responses;
  for (int64_t i = first; i < last; ++i) {
    const auto& [ids, prompt_tokens] =
        examples[epoch_shuffled(i, examples.size(), seed, static_cast<uint64_t>(Stream::shuffle))];
    batch.prompts.emplace_back(ids.begin(), ids.begin() + prompt_tokens);
    batch.lengths.push_back(std::ssize(ids) - prompt_tokens);
    responses.push_back(
        torch::tensor(std::vector<int64_t>(ids.begin() + prompt_tokens, ids.end())));
  }
  batch.response_ids = at::pad_sequence(responses, /*batch_first=*/true);
  return batch;
}

}  // namespace

void sft(const Config& config, const Settings& settings) {
  RunDirectory directory(config, settings);
  const Checkpoint& checkpoint = directory.checkpoint();
  const std::filesystem::path start =
      config.resume ? checkpoint.path / "model" : model_directory(config);
  const torch::Device device(config.device);
  const Tokenizer tokenizer = Tokenizer::from_file(start / "tokenizer.json");
  NextTokenTraining training{.verb = "sft",
                             .log_every = 1,
                             .save_every = config.save_every,
                             .side_files = read_side_files(start)};
  const auto examples = read_examples(config.data, tokenizer,
                                      ModelConfig::from_file(start / "config.json"), training.data);
  if (config.resume) training.resume(checkpoint);
  Learner learner =
      config.resume ? Learner::load(checkpoint.path, "model", Head::language_model, device, config)
                    : Learner(Model::load(start, Head::language_model, device).merged(), config);
  learner.model.limit_vocabulary(static_cast<int64_t>(tokenizer.vocab_size()));
  directory.start();

  const int64_t total = config.sft_epochs * std::ssize(examples);  // the last update may be smaller
  const LearningRate rate{config.learning_rate, config.final_learning_rate, config.schedule,
                          config.warmup_updates, (total - 1) / config.sft_batch + 1};
  if (rate.warmup_updates >= rate.total_updates)
    std::cerr << "warmup-updates is " << rate.warmup_updates << ", but there are only "
              << rate.total_updates << " updates: the rate never reaches learning-rate\n";
  std::cout << "fine-tuning on " << examples.size() << " examples: " << rate.total_updates
            << " updates" << std::endl;
  training.run(learner, directory, config, training.cursor, total, [&] {
    const int64_t first =
        std::exchange(training.cursor, std::min(training.cursor + config.sft_batch, total));
    const Rollout batch =
        take_examples(examples, first, training.cursor, static_cast<uint64_t>(config.seed));
    double loss = 0;
    for (const auto& some : micro_batches(batch, count_up(batch.size()),
                                          config.tokens_per_micro_batch, learner.model)) {
      const ScoringBatch part = make_scoring_batch(batch, some, learner.model);
      // A share of the mean over all response tokens of the update, whatever the micro-batches.
      const torch::Tensor share = -part.log_probs(learner.model, /*temperature=*/1).sum() /
                                  static_cast<double>(batch.response_tokens());
      share.backward();
      loss += share.item<double>();
      training.tokens += part.tokens.count();
    }
    return std::pair{loss, rate.at(training.update)};
  });
}

}  // namespace tiny_zero
