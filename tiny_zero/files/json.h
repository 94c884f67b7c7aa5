#pragma once
// Whole files, JSON Lines, and the files beside a model's weights.

#include <filesystem>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

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

/// Files that are copied from one model directory to the next, by name: the tokenizer's and
/// generation_config.json.
using SideFiles = std::map<std::string, std::string>;
SideFiles read_side_files(const std::filesystem::path& directory);
void write_side_files(const std::filesystem::path& directory, const SideFiles& files);

}  // namespace tiny_zero
