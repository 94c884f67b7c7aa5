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
  std::string family = "qwen2";  // model_type: qwen2, qwen3, llama or one of this program's own
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
  double residual_scale = 1.0;   // a [RoFormerV2]; below 1 only while its ramp lasts
  bool tie_embeddings = true;    // the embedding is the language model's head, too
  std::vector<int64_t> end_ids;  // end a response: of config.json and generation_config.json
  std::string source;            // the file's text, written back by to_file(); "" if new

  // What the families differ in. transformers does not know the last two, by any name.
  bool qkv_bias() const { return family == "qwen2" || all_bias(); }
  bool qk_norm() const { return family == "qwen3"; }
  bool post_norm() const { return family == "tiny_zero_roformer_v2"; }  // without weights
  bool all_bias() const { return family == "tiny_zero_gpt"; }  // and LayerNorm, with gain and bias
  bool gated() const { return !post_norm() && !all_bias(); }   // SwiGLU, else GELU
  bool known_elsewhere() const { return gated(); }

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
