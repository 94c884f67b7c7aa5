#pragma once
// The model's fused operations. Each is an ordinary function with a reference implementation in
// plain LibTorch, `..._reference`, which it must equal. float32 and bfloat16 tensors on the CPU
// take the fused code, all others the reference implementation.
//
// Sequences are packed: the tokens of a batch follow one another in one (N, ...) tensor without
// padding, and `starts` (S + 1 offsets) says where each sequence begins.

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>  // torch/torch.h takes four times as long to compile

#include <vector>

namespace tiny_zero {

/// Columns of `qkv`: H query heads, K key heads, K value heads, each of width D.
struct AttentionShape {
  int64_t num_heads;     // H
  int64_t num_kv_heads;  // K; H / K query heads share a key and value head
  int64_t head_dim;      // D; the fused code wants a multiple of 16
  int64_t qkv_width() const { return value_column(num_kv_heads); }
  int64_t key_column(int64_t kv_head) const { return (num_heads + kv_head) * head_dim; }
  int64_t value_column(int64_t kv_head) const { return key_column(num_kv_heads + kv_head); }
};

/// cos and sin of the rotary angles, (positions, D / 2) float32 each.   [RoFormer]
/// As in Qwen2.5, i is paired with i + D / 2.
struct Rope {
  torch::Tensor cos, sin;
};

/// x / sqrt(mean(x^2) + eps) * weight, per row.
/// @param x (N, d)   @param weight (d,)   @return (N, d)
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps);
torch::Tensor rms_norm_reference(const torch::Tensor& x, const torch::Tensor& weight, double eps);

/// How many rows a product should be padded to: on a CPU LibTorch compiles one in bfloat16 for each
/// number of rows that it meets, and keeps it. From 512 on it is an eighth more at most.
int64_t padded_rows(int64_t rows, const torch::TensorOptions& options);

/// A weight laid out for sampling, where its product is faster for that: only project() and
/// add_projection() read it, and there is no gradient. Others are returned as they are.
/// @param weight (out, in)   @return (out / 32, in / 2, 32) int32, pairs of bfloat16
torch::Tensor pack_weight(const torch::Tensor& weight);
/// x weight^T + bias.
/// @param x (N, in)   @param weight (out, in), or packed   @param bias (out,) or undefined
torch::Tensor project(const torch::Tensor& x, const torch::Tensor& weight,
                      const torch::Tensor& bias);
/// residual + scale x weight^T.
/// @param residual (N, out)   @param x (N, in)   @param weight (out, in), or packed
torch::Tensor add_projection(const torch::Tensor& residual, const torch::Tensor& x,
                             const torch::Tensor& weight, double scale);

/// silu(gate) * up.
/// @param gate_up (N, 2f), gate first   @return (N, f)
torch::Tensor swiglu(const torch::Tensor& gate_up);
torch::Tensor swiglu_reference(const torch::Tensor& gate_up);

/// Causal self-attention within each packed sequence, scores scaled by 1 / sqrt(D). Queries and
/// keys are rotated here; positions count from 0. The backward pass keeps nothing of size (T, T).
/// @param qkv (N, (H + 2K) D)   @param starts  S + 1 increasing offsets from 0 to N
/// @param shared  how many tokens each sequence shares with the nearest one before it that shares
/// none: they come before its own. Empty if none does, else (S,), 0 for the first. Only where
/// attention_shares().
/// @return (N, H D)
torch::Tensor packed_attention(const torch::Tensor& qkv, const Rope& rope,
                               const std::vector<int64_t>& starts, const AttentionShape& shape,
                               const std::vector<int64_t>& shared = {});
bool attention_shares(torch::Device device, const AttentionShape& shape);
torch::Tensor packed_attention_reference(const torch::Tensor& qkv, const Rope& rope,
                                         const std::vector<int64_t>& starts,
                                         const AttentionShape& shape);

/// Keys and values of one layer for `rows` sequences that are being sampled. Keys lie in blocks of
/// positions, transposed within each block, so that sixteen scores are computed at once. The plain
/// layout (D, capacity) is the same with a single block. What is summed over comes in packs of
/// `pack` numbers, so that a product of bfloat16 takes two at once.
struct KvCache {
  torch::Tensor keys;    // (rows, K, capacity / block, D / pack, block, pack), rotated
  torch::Tensor values;  // (rows, K, capacity / pack, D, pack)
  KvCache() = default;
  KvCache(int64_t rows, int64_t capacity, const AttentionShape& shape,
          const torch::TensorOptions& options);
  int64_t pack() const { return values.size(4); }
  int64_t capacity() const { return values.size(2) * pack(); }
};

/// Writes the keys and values of N tokens into the cache.
/// @param qkv (N, (H + 2K) D), not yet rotated
/// @param rows, positions  (N,) int64: where each token goes
void store_keys_values(KvCache& cache, const torch::Tensor& qkv, const Rope& rope,
                       const AttentionShape& shape, const torch::Tensor& rows,
                       const torch::Tensor& positions);

/// One new token per row: stores its key and value, then attends to all positions of that row so
/// far. Not differentiable.
/// @param qkv (B, (H + 2K) D), contiguous
/// @param rows, positions  (B,) int64; rows are distinct, and in order if all rows are present
/// @param length  the largest position + 1; passed in, because reading it back would stall the GPU
/// @return (B, H D)
torch::Tensor cached_attention(KvCache& cache, const torch::Tensor& qkv, const Rope& rope,
                               const AttentionShape& shape, const torch::Tensor& rows,
                               const torch::Tensor& positions, int64_t length);
torch::Tensor cached_attention_reference(KvCache& cache, const torch::Tensor& qkv, const Rope& rope,
                                         const AttentionShape& shape, const torch::Tensor& rows,
                                         const torch::Tensor& positions, int64_t length);

struct TokenLogProbs {
  torch::Tensor log_probs;  // (N,) float32, nats
  torch::Tensor entropies;  // (N,) float32, nats, of the whole distribution [T32], or empty
};

/// log softmax(hidden weight^T / temperature)[target] per row, in float32 whatever the type of the
/// inputs. Both passes hold the (N, V) logits of only one chunk of rows at a time [T24].
/// @param hidden (N, d)   @param weight (V', d)   @param targets (N,) int64 in [0, vocab_size)
/// @param vocab_size  rows of `weight` beyond it are padding and get no probability [T22]
TokenLogProbs token_log_probs(const torch::Tensor& hidden, const torch::Tensor& weight,
                              const torch::Tensor& targets, double temperature, int64_t vocab_size,
                              bool with_entropy);
TokenLogProbs token_log_probs_reference(const torch::Tensor& hidden, const torch::Tensor& weight,
                                        const torch::Tensor& targets, double temperature,
                                        int64_t vocab_size);

/// Logits hidden weight^T of the first vocab_size tokens. They are summed in float32 whatever the
/// type of the inputs: rounding to bfloat16 would lose the differences between likely tokens.
/// @param hidden (N, d)   @param weight (V', d)   @return (N, vocab_size) float32
torch::Tensor head_logits(const torch::Tensor& hidden, const torch::Tensor& weight,
                          int64_t vocab_size);

struct SampledTokens {
  torch::Tensor ids;        // (B,) int64
  torch::Tensor log_probs;  // (B,) float32, nats, under the distribution that was sampled [T8, T9]
};

/// Samples one token per row by inverting the cumulative distribution at a given uniform number, so
/// the result does not depend on the other rows of the batch. Temperature 0 takes the likeliest
/// token, with its log-prob at temperature 1.
/// @param logits (B, V) float32   @param uniforms (B,) float64 in [0, 1)
/// @param top_p  keeps the likeliest tokens until their probabilities add up to it; 1 keeps all
SampledTokens sample_tokens(const torch::Tensor& logits, const torch::Tensor& uniforms,
                            double temperature, double top_p);

}  // namespace tiny_zero
