#pragma once
// config.json of a Hugging Face model: the family, the shape and what ends a response.

#include <filesystem>
#include <string>
#include <vector>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// Llama 3.1 stretches the slow rotary frequencies to fit longer texts; factor 1 leaves them alone.
struct RopeScaling {
  double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  double original_positions = 8192;
};

/// The fields of config.json that decide what the model computes.
struct ModelConfig {
  std::string family = "qwen2";  // model_type: qwen2, qwen3 or llama
  int64_t vocab_size = 0;        // V', rows of the embedding matrix
  int64_t used_vocab_size = 0;   // V; ids from here on are padding. Model::limit_vocabulary()
  int64_t hidden_size = 128;     // d
  int64_t num_layers = 4;
  AttentionShape attention{4, 4, 32};
  int64_t ffn_size = 320;  // f
  int64_t max_positions = 1024;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  double norm_eps = 1e-6;
  bool tie_embeddings = true;    // the embedding is the language model's head, too
  std::vector<int64_t> end_ids;  // end a response: of config.json and generation_config.json
  std::string source;            // the file's text, written back by to_file(); "" if new

  bool qkv_bias() const { return family == "qwen2"; }
  bool qk_norm() const { return family == "qwen3"; }

  /// Reads config.json and, for the end ids, generation_config.json beside it.
  /// @throws std::invalid_argument with the field, what it holds and what is supported. An unknown
  /// field is refused too, as it might change the result.
  static ModelConfig from_file(const std::filesystem::path& path);
  /// Writes the file that was read, or a new one, with `dtype` as the type of the weights.
  void to_file(const std::filesystem::path& path, torch::Dtype dtype) const;
  /// A new model's shape, as set by layers, hidden, ...; it has no end ids yet.
  static ModelConfig from_settings(const Config& settings, int64_t vocab_size);
};

}  // namespace tiny_zero
