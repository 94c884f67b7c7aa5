#pragma once
// Low-rank adapters: each matrix W of the layers becomes W + (alpha / r) B A, of which only A and B
// are trained.   [LoRA]
//
// q, k and v are one matrix here, as they are in memory, and so are gate and up: the parts share
// their A. Departure from the paper: A starts uniform within 1 / sqrt(d_in), not normal [LoRA
// without regret].

#include <filesystem>
#include <string>

#include "tiny_zero/files/safetensors.h"

namespace tiny_zero {

struct Lora {
  int64_t rank = 0;  // r; 0 is none
  double alpha = 32;
  std::filesystem::path base;  // directory of the model that W is read from
  std::string base_checksum;   // of its weights

  double scale() const { return alpha / static_cast<double>(rank); }
};

/// A (r, d_in) and B (d_out, r) of one matrix; undefined without adapters.
struct LowRank {
  torch::Tensor a, b;

  /// W + scale B A, or W itself without adapters.   @param weight (d_out, d_in)
  torch::Tensor added_to(const torch::Tensor& weight, double scale) const;
};

/// Checksums of all weight files of a model directory, in the order of their names.
std::string checksum_of_weights(const std::filesystem::path& directory);
/// Writes adapters.safetensors, and lora.json, which names the base that they belong to.
void save_adapters(const std::filesystem::path& directory, const Lora& lora,
                   const NamedTensors& adapters);
/// Reads lora.json.   @throws std::runtime_error if the base is gone, or other weights lie there
Lora read_lora(const std::filesystem::path& directory);

}  // namespace tiny_zero
