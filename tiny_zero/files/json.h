#pragma once
// Whole files, and the ones that lie beside a model's weights.

#include <filesystem>
#include <functional>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace tiny_zero {

using Json = nlohmann::ordered_json;

/// Writes a whole file; throws std::runtime_error with the path if that fails.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Reads a whole file; throws std::invalid_argument with the path and what the file is for.
std::string read_text(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads a file that holds one JSON object; throws std::invalid_argument with the path and the
/// place of the mistake.
Json read_json(const std::filesystem::path& path, const std::string& wanted_for);

/// Calls `act` with each line that is not blank and with its place for errors, such as
/// "train.jsonl:7".
void for_each_row(
    std::istream& in, const std::string& name,
    const std::function<void(const std::string& line, const std::string& place)>& act);

/// Files of a model directory that are handed on as they are, by name: the tokenizer's and
/// generation_config.json.
using SideFiles = std::map<std::string, std::string>;
SideFiles read_side_files(const std::filesystem::path& directory);
void write_side_files(const std::filesystem::path& directory, const SideFiles& files);

}  // namespace tiny_zero
