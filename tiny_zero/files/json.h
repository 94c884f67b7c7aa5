#pragma once
// Whole files, JSON Lines, fields of a JSON file, and the files beside a model's weights.

#include <filesystem>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tiny_zero {

using Json = nlohmann::ordered_json;

/// Writes a whole file; throws std::runtime_error with the path if that fails.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Reads a whole file; throws std::invalid_argument with the path and `wanted_for`, which says what
/// needs it.
std::string read_text(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads a file that holds one JSON object; throws std::invalid_argument with the path and where
/// the mistake is.
Json read_json(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads the next line of JSON Lines that is not blank; false at the end. `number` counts every
/// line: start it at 0, and it tells errors which line this is.
bool next_row(std::istream& in, std::string& line, int64_t& number);

/// A JSON value with its path, so that each error says where, what was found and what was wanted.
/// All functions throw std::invalid_argument if the value is not what they want.
struct Field {
  const nlohmann::json& value;
  std::string path;  // "tokenizer.json: model.merges[3]"; of a whole file "tokenizer.json: "

  [[noreturn]] void fail(const std::string& wanted) const;
  /// The member of an object; null if absent.
  Field operator[](const std::string& key) const;
  std::vector<std::pair<std::string, Field>> members() const;
  std::vector<Field> elements() const;
  std::vector<Field> list() const;  // elements of an array, nothing for null, else just this value
  const std::string& text() const;
  int64_t integer(int64_t least, int64_t most) const;
  double number(std::optional<double> if_absent = {}) const;
  bool flag(bool if_absent) const;
  void must_be(const nlohmann::json& only) const;
  void may_be(const nlohmann::json& only) const;  // or null or absent
};

/// Files that are copied from one model directory to the next, by name: the tokenizer's and
/// generation_config.json.
using SideFiles = std::map<std::string, std::string>;
SideFiles read_side_files(const std::filesystem::path& directory);
void write_side_files(const std::filesystem::path& directory, const SideFiles& files);

}  // namespace tiny_zero
