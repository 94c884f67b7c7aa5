#pragma once
// Tensors in files of the safetensors format; safetensors_header.h reads what says where they lie.

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
/// @param type  of all of them in the file; their own if left out
/// @throws std::runtime_error if the file cannot be written
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      std::optional<torch::Dtype> type = {});

/// Maps a file into memory; the tensors read from it on demand and keep the mapping alive. Treat
/// them as read-only.
/// @throws std::runtime_error with file and tensor for anything that read_safetensors_header()
/// refuses
TensorMap load_safetensors(const std::filesystem::path& path);

/// The tensors of a model directory: of model.safetensors, else of the shards in
/// model.safetensors.index.json, which must hold what the index lists and nothing else.
TensorMap load_model_tensors(const std::filesystem::path& directory);

/// Gives back the memory into which a tensor of load_safetensors() was read; reading it again reads
/// the file again.
void forget_pages(const torch::Tensor& mapped);

}  // namespace tiny_zero
