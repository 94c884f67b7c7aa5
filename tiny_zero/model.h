#pragma once
// A decoder-only transformer: pre-norm RMSNorm, rotary positions, grouped-query attention, SwiGLU,
// tied or separate embeddings. The families differ in two points: Qwen2 has biases on q, k and v,
// Qwen3 norms of q and k; Llama has neither. Two more are only made here, to compare: one that
// norms each sum instead, without weights [RoFormerV2], and one with LayerNorm, biases everywhere
// and GELU, which but for its rotary positions is GPT-2's. Sequences are packed, without padding.

#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tiny_zero/files/model_config.h"
#include "tiny_zero/files/safetensors.h"
#include "tiny_zero/files/tokenizer.h"
#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/methods/lora.h"

namespace tiny_zero {

inline torch::Dtype to_dtype(ComputeType type) {
  return type == ComputeType::bfloat16 ? torch::kBFloat16 : torch::kFloat32;
}

/// Sequences one after another: ids (N,) int64, S + 1 offsets where they start, and what they share
/// with an earlier one, as packed_attention() has it.
struct PackedTokens {
  torch::Tensor ids;
  std::vector<int64_t> starts{0}, shared;

  static PackedTokens from(const std::vector<std::vector<int64_t>>& sequences,
                           const torch::Device& device, std::vector<int64_t> shared = {});
  /// Tokens of all sequences, those that are shared in each.
  int64_t count() const { return std::reduce(shared.begin(), shared.end(), starts.back()); }
};

/// What sits on top of the last hidden states; `both` is a policy that shares its layers with the
/// critic.
enum class Head { language_model, value, both };

class Model {
 public:
  /// Random weights: normal(0, 0.02), output projections divided by sqrt(2 layers) [GPT-2]; those
  /// of a post-norm model as [RoFormerV2] has them.
  Model(const ModelConfig& config, Head head, uint64_t seed, torch::Device device);

  /// All weights zero; on torch::kMeta shapes without memory.
  Model(const ModelConfig& config, Head head, torch::Device device);

  /// Reads a directory in Hugging Face layout, with one copy of the weights in memory. A value head
  /// that the file lacks starts at zero [T19]. A directory of adapters names their base, which is
  /// read below them [LoRA].
  /// @throws std::invalid_argument for config.json, std::runtime_error for the weights: their
  /// names, shapes and types are compared with config.json before anything is allocated, and every
  /// value must be finite
  static Model load(const std::filesystem::path& directory, Head head, torch::Device device);
  /// Writes config.json and model.safetensors, the weights in this type; of a model with adapters
  /// these alone, as they are, and the name of their base.
  void save(const std::filesystem::path& directory, torch::Dtype dtype = torch::kFloat32) const;
  /// A copy of the weights: a reference model, or a critic that starts from the policy. It has no
  /// adapters: they are added to its weights.
  Model clone(Head head) const;
  /// A model of its own weights: a clone if this one has adapters, else itself.
  Model merged() const { return base_ ? clone(head_) : *this; }
  /// This model, frozen and in the same memory, below new adapters, which become its parameters().
  /// @throws std::invalid_argument if a matrix is too small for the rank   [LoRA]
  Model with_adapters(const Lora& lora, uint64_t seed) const;
  /// The frozen model below the adapters, in the same memory.
  Model without_adapters() const { return *base_; }
  /// This model with its weights in the compute type, cast once instead of at every token. In
  /// float32 it shares this model's memory and costs nothing.
  Model cast_for_sampling() const;

  /// Type of the matrix products. The parameters stay float32 [T12] and are cast where they are
  /// used.
  void set_compute_type(torch::Dtype dtype) { compute_type_ = dtype; }
  torch::Dtype compute_type() const { return compute_type_; }

  /// Sets a of a post-norm model, in [0, 1]: h = norm(h + a part(h)) [RoFormerV2]. Others have
  /// none.
  void set_residual_scale(double scale) {
    if (config_.post_norm()) config_.residual_scale = scale;
  }

  /// Whether sequences may share their beginning.
  bool shares_tokens() const { return attention_shares(device(), config_.attention); }
  /// Last hidden states after the final norm.   @return (N, d), and perhaps rows of padding after
  /// them
  torch::Tensor hidden_states(const PackedTokens& tokens) const;
  /// Log-probs of given tokens: row `positions[i]` of `hidden` predicts `targets[i]`.
  TokenLogProbs log_probs(const torch::Tensor& hidden, const torch::Tensor& positions,
                          const torch::Tensor& targets, double temperature,
                          bool with_entropy) const;
  /// V(s) at the given rows.   @return (M,) float32
  torch::Tensor values(const torch::Tensor& hidden, const torch::Tensor& positions) const;

  /// Caches of all layers for `rows` sequences of up to `capacity` tokens.
  std::vector<KvCache> make_cache(int64_t rows, int64_t capacity) const;
  /// Runs each prompt once and fills all cache rows of its group.
  /// @param copies  cache rows per prompt: prompt s fills rows s * copies to s * copies + copies -
  /// 1
  /// @return float32 logits after the last token of each prompt, (S, used_vocab_size)
  torch::Tensor prefill(const PackedTokens& prompts, std::vector<KvCache>& cache,
                        int64_t copies) const;
  /// One more token for some rows of the cache.
  /// @param ids, rows, positions  (B,) int64 on the CPU; rows distinct, and in order if they are
  /// all rows of the cache
  /// @return float32 logits (B, used_vocab_size)
  torch::Tensor decode(const torch::Tensor& ids, const torch::Tensor& rows,
                       const torch::Tensor& positions, std::vector<KvCache>& cache) const;

  const ModelConfig& config() const { return config_; }
  torch::Device device() const { return parameters_.device(); }
  /// All parameters, and their gradients, as one flat float32 vector each, which is all that the
  /// optimiser sees.
  torch::Tensor& parameters() { return parameters_; }
  const torch::Tensor& parameters() const { return parameters_; }
  /// Allocated at the first use or differentiable pass, so that a model that only samples or scores
  /// has none.
  torch::Tensor& gradients() const;
  /// Views of the parameters, and of their gradients, as files name them.
  const NamedTensors& named_tensors() const { return named_; }
  NamedTensors named_gradients() const;
  /// The value head (1, d), zero until trained or set.
  torch::Tensor value_head() const { return value_head_; }
  /// Ids from `size` on are padded rows: they can be neither sampled nor scored [T22].
  void limit_vocabulary(int64_t size);

 private:
  struct Norm {
    torch::Tensor gain, bias;
  };
  struct Matrix {
    torch::Tensor weight;
    LowRank adapter;
  };
  struct Layer {  // a tensor is undefined where the family has none
    Norm input_norm, ffn_norm;
    Matrix qkv, output, gate_up, down;  // no gate: only up
    torch::Tensor qkv_bias, output_bias, up_bias, down_bias, query_norm, key_norm;
  };
  /// A tensor of the weights file. Neighbours with one `tensor` are its rows from top to bottom: q,
  /// k and v are one matrix in memory, and so are gate and up.
  struct Parameter {
    std::string name;  // in the file
    torch::Tensor* tensor;
    std::vector<int64_t> shape;
  };

  std::vector<Parameter> list_parameters();                  // in the order of the flat vector
  std::vector<std::pair<std::string, Matrix*>> matrices();   // of all layers
  void allocate(const std::vector<Parameter>& list);         // as slices of a new flat vector
  torch::Tensor cast(const torch::Tensor& parameter) const;  // to the compute type
  torch::Tensor cast(const Matrix& matrix) const { return cast(with_adapter(matrix)); }
  torch::Tensor with_adapter(const Matrix& matrix) const {  // W + (alpha / r) B A
    return matrix.adapter.added_to(matrix.weight, lora_.scale());
  }
  torch::Tensor head_weight() const;
  torch::Tensor embed(const torch::Tensor& ids) const;
  template <class Attend>
  torch::Tensor run_layers(torch::Tensor x, const Attend& attend) const;
  torch::Tensor norm(const torch::Tensor& x, const Norm& weights) const;
  torch::Tensor ffn(const torch::Tensor& x, const Layer& layer) const;
  torch::Tensor add_part(const torch::Tensor& x, const torch::Tensor& part,
                         const torch::Tensor& cast_weight, const torch::Tensor& bias) const;
  torch::Tensor norm_queries_keys(const torch::Tensor& qkv, const Layer& layer) const;

  ModelConfig config_;
  Head head_;
  torch::Dtype compute_type_ = torch::kFloat32;
  torch::Tensor parameters_;
  mutable torch::Tensor gradients_;
  Lora lora_;
  std::shared_ptr<const Model> base_;  // frozen below the adapters; null if there are none
  NamedTensors named_;                 // slices of parameters_, as the weights file has them
  std::vector<torch::Tensor> leaves_;  // slices of parameters_, as the forward pass uses them
  torch::Tensor embedding_, lm_head_, value_head_;
  Norm final_norm_;
  std::vector<Layer> layers_;
  Rope rope_;
};

struct LoadedModel {
  Tokenizer tokenizer;
  Model model;
};
/// config.model for sampling and scoring: vocabulary limited to the tokenizer's, compute type set.
LoadedModel load_model(const Config& config);
/// The directory that config.model means: itself; of a run the finished model or that of the newest
/// checkpoint; of a checkpoint its model. Throws std::invalid_argument if there is no such
/// directory.
std::filesystem::path model_directory(const Config& config);
/// The settings.conf of the run that holds this model as runs/NAME/model or
/// runs/NAME/checkpoints/step_N/model; "" if no run does.
std::filesystem::path settings_of_run(const std::filesystem::path& model);

/// Files that are copied from one model directory to the next, by name: the tokenizer's and
/// generation_config.json.
using SideFiles = std::map<std::string, std::string>;
SideFiles read_side_files(const std::filesystem::path& directory);
void write_side_files(const std::filesystem::path& directory, const SideFiles& files);

}  // namespace tiny_zero
