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

void Field::fail(const std::string& wanted) const {
  std::string found = value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
  if (found.size() > 300) found = found.substr(0, 300) + "...";
  throw std::invalid_argument(path + ": found " + found + ", want " + wanted);
}

Field Field::operator[](const std::string& key) const {
  static const nlohmann::json null;
  if (!value.is_object()) fail("an object");
  const auto member = value.find(key);
  return {member == value.end() ? null : *member, path + (path.ends_with(' ') ? "" : ".") + key};
}

std::vector<std::pair<std::string, Field>> Field::members() const {
  if (!value.is_object()) fail("an object");
  std::vector<std::pair<std::string, Field>> result;
  for (const auto& member : value.items()) result.emplace_back(member.key(), (*this)[member.key()]);
  return result;
}

std::vector<Field> Field::elements() const {
  if (!value.is_array()) fail("an array");
  std::vector<Field> result;
  for (size_t i = 0; i < value.size(); ++i)
    result.push_back({value[i], path + "[" + std::to_string(i) + "]"});
  return result;
}

std::vector<Field> Field::list() const {
  if (value.is_null()) return {};
  return value.is_array() ? elements() : std::vector{*this};
}

const std::string& Field::text() const {
  if (!value.is_string()) fail("a string");
  return value.get_ref<const std::string&>();
}

int64_t Field::integer(int64_t least, int64_t most) const {
  if (!value.is_number_integer() || value < least || value > most) {
    fail("a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return value.get<int64_t>();
}

double Field::number(std::optional<double> if_absent) const {
  if (value.is_null() && if_absent) return *if_absent;
  if (!value.is_number()) fail("a number");
  return value.get<double>();
}

bool Field::flag(bool if_absent) const {
  if (value.is_null()) return if_absent;
  if (!value.is_boolean()) fail("true or false");
  return value.get<bool>();
}

void Field::must_be(const nlohmann::json& only) const {
  if (value != only) fail(only.dump() + "; nothing else is supported");
}

void Field::may_be(const nlohmann::json& only) const {
  if (!value.is_null()) must_be(only);
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
