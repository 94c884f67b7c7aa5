// Driver of check_tokenizer.py: tokenize_main TOKENIZER.json < lines.jsonl
// reads {"text": ...} and writes {"ids": [...]}, one JSON object a line.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "tiny_zero/tokenizer.h"

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: tokenize_main TOKENIZER.json < lines.jsonl\n";
    return 2;
  }
  const auto tokenizer = tiny_zero::Tokenizer::from_file(argv[1]);
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = nlohmann::json::parse(line).at("text").get<std::string>();
    std::cout << nlohmann::json{{"ids", tokenizer.encode(text)}}.dump() << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << "tokenize_main: " << error.what() << '\n';
  return 1;
}
