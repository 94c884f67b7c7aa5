#pragma once
// The safetensors format: an 8-byte header length, a JSON header with type, shape and byte range of each tensor, the
// bytes.

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tiny_zero {

/// Writes contiguous copies of the tensors (CPU or GPU) and flushes them to the disk.
/// @throws std::runtime_error if the file cannot be written
void save_safetensors(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, torch::Tensor>>& tensors);

/// Maps a file into memory; the tensors read from it on demand and keep the mapping alive. Treat them as read-only.
/// @throws std::runtime_error with file and tensor for a truncated file, overlapping or lying offsets, an unknown type
std::map<std::string, torch::Tensor> load_safetensors(const std::filesystem::path& path);

}  // namespace tiny_zero
