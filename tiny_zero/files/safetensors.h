#pragma once
// Tensors in safetensors files; safetensors_header.h reads their headers.

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tiny_zero {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;
using TensorMap = std::map<std::string, torch::Tensor>;

/// Writes contiguous copies of the tensors (CPU or GPU), one at a time.
/// @param type  of all tensors in the file; by default each keeps its own
/// @throws std::runtime_error if the file cannot be written
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      std::optional<torch::Dtype> type = {});

/// Maps a file into memory. The tensors are read on demand and keep the mapping alive; treat them
/// as read-only.
/// @throws std::runtime_error as read_safetensors_header() does
TensorMap load_safetensors(const std::filesystem::path& path);

/// The tensors of a model directory: of model.safetensors, or else of the shards that
/// model.safetensors.index.json names, which must hold exactly what it lists.
TensorMap load_model_tensors(const std::filesystem::path& directory);

/// Frees the memory of a tensor of load_safetensors(); using it again reads the file again.
void forget_pages(const torch::Tensor& mapped);

}  // namespace tiny_zero
