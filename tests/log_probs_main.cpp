// Driver of check_transformers.py: log_probs_main MODEL_DIRECTORY < lines.jsonl
// reads {"text": ...} and writes {"ids": [...], "log_probs": [[...] after each token]}, one JSON object a line.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>

#include "tiny_zero/model.h"
#include "tiny_zero/tokenizer.h"

using namespace tiny_zero;

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: log_probs_main MODEL_DIRECTORY < lines.jsonl\n";
    return 2;
  }
  const at::NoGradGuard no_grad;
  const auto tokenizer = Tokenizer::from_file(std::string(argv[1]) + "/tokenizer.json");
  const Model model = Model::load(argv[1], Head::language_model, torch::kCPU);
  const int64_t vocab_size = model.config().vocab_size;
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = tokenizer.encode(nlohmann::json::parse(line).at("text").get<std::string>());
    const auto tokens = PackedTokens::from({ids}, torch::kCPU);
    const auto hidden = model.hidden_states(tokens);
    nlohmann::json rows;
    for (int64_t i = 0; i < tokens.count(); ++i) {
      const auto position = torch::full({vocab_size}, i, torch::kInt64);
      const auto row =
          model.log_probs(hidden, position, torch::arange(vocab_size), /*temperature=*/1.0, false).log_probs;
      rows.push_back(std::vector<float>(row.data_ptr<float>(), row.data_ptr<float>() + vocab_size));
    }
    std::cout << nlohmann::json{{"ids", ids}, {"log_probs", rows}}.dump() << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << "log_probs_main: " << error.what() << '\n';
  return 1;
}
