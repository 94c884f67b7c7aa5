#include "tiny_zero/files/json.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace tiny_zero {

namespace fs = std::filesystem;

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw std::runtime_error(path.string() + " cannot be written");
}

std::string read_text(const fs::path& path, const std::string& wanted_for) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!(text << file.rdbuf())) {
    throw std::invalid_argument(path.string() + " cannot be opened or is empty; " + wanted_for);
  }
  return text.str();
}

Json read_json(const fs::path& path, const std::string& wanted_for) {
  const std::string text = read_text(path, wanted_for);
  std::string problem;
  try {
    Json object = Json::parse(text);
    if (object.is_object()) return object;
  } catch (const Json::exception& error) {
    problem = std::string(": ") + error.what();
  }
  throw std::invalid_argument(path.string() + " is not a JSON object" + problem +
                              "; is the download complete?");
}

bool next_row(std::istream& in, std::string& line, int64_t& number) {
  while (std::getline(in, line)) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string::npos) return true;
  }
  return false;
}

SideFiles read_side_files(const fs::path& directory) {
  SideFiles files;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"}) {
    if (fs::exists(directory / name))
      files[name] = read_text(directory / name, "it belongs to the model");
  }
  return files;
}

void write_side_files(const fs::path& directory, const SideFiles& files) {
  for (const auto& [name, text] : files) write_text(directory / name, text);
}

}  // namespace tiny_zero
