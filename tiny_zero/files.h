#pragma once
// Whole files, and the ones that lie beside a model's weights.

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace tiny_zero {

using Json = nlohmann::ordered_json;

/// Writes a whole file; throws std::runtime_error with the path if that fails.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Reads a whole file; throws std::invalid_argument with the path and what the file is for.
std::string read_text(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads a file that holds one JSON object; throws std::invalid_argument with the path and the place of the mistake.
Json read_json(const std::filesystem::path& path, const std::string& wanted_for);

/// Files of a model directory that are handed on as they are, by name: the tokenizer's and generation_config.json.
using SideFiles = std::map<std::string, std::string>;
SideFiles read_side_files(const std::filesystem::path& directory);
void write_side_files(const std::filesystem::path& directory, const SideFiles& files);

}  // namespace tiny_zero
