// Every operation of kernels.h as plain LibTorch mathematics: read this file first. The other files
// compute the same numbers faster on the CPU; elsewhere the model runs this code.

#include <cmath>

#include "tiny_zero/kernels/kernels.h"

namespace tiny_zero {

using torch::Tensor;
using torch::indexing::Slice;

Tensor rms_norm_reference(const Tensor& x, const Tensor& weight, double eps) {
  const Tensor wide = x.to(torch::kFloat32);
  const Tensor normed = wide * torch::rsqrt(wide.square().mean(/*dim=*/-1, /*keepdim=*/true) + eps);
  return normed.to(x.scalar_type()) * weight;
}

Tensor swiglu_reference(const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, /*dim=*/-1);
  return torch::silu(halves[0]) * halves[1];
}

/// Rotates the pairs (i, i + D / 2) of each head by the angles of its position.   [RoFormer]
/// @param heads (N, heads, D)   @param positions (N,) int64   @return as `heads`, type included
static Tensor apply_rope(const Tensor& heads, const Rope& rope, const Tensor& positions) {
  const Tensor cos = rope.cos.index_select(0, positions).unsqueeze(1);  // (N, 1, D / 2)
  const Tensor sin = rope.sin.index_select(0, positions).unsqueeze(1);
  const auto halves = heads.to(torch::kFloat32).chunk(2, /*dim=*/-1);
  const auto rotated = torch::cat(
      {halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, /*dim=*/-1);
  return rotated.to(heads.scalar_type());
}

Tensor packed_attention_reference(const Tensor& qkv, const Rope& rope,
                                  const std::vector<int64_t>& starts, const AttentionShape& shape) {
  const auto [num_heads, num_kv_heads, dim] = shape;
  const Tensor offsets = torch::tensor(starts, torch::kInt64);
  const Tensor lengths = offsets.diff();                                  // (S,)
  const Tensor row = torch::repeat_interleave(lengths).to(qkv.device());  // (N,): token's sequence
  const Tensor position =
      torch::arange(qkv.size(0), qkv.device()) - offsets.to(qkv.device()).index({row});

  const Tensor heads = qkv.view({qkv.size(0), -1, dim});  // (N, H + 2K, D)
  const Tensor rotated = apply_rope(heads.narrow(1, 0, num_heads + num_kv_heads), rope, position);
  const auto pad = [&, steps = lengths.max().item<int64_t>()](const Tensor& packed) {
    const Tensor zeros =
        torch::zeros({lengths.size(0), steps, packed.size(1), shape.head_dim}, packed.options());
    return zeros.index_put({row, position}, packed).transpose(1, 2);  // (S, heads, T, D)
  };
  const auto repeat = [&](const Tensor& kv) {  // each key-value head serves H / K query heads
    return kv.repeat_interleave(shape.num_heads / shape.num_kv_heads, /*dim=*/1);
  };
  const Tensor q = pad(rotated.narrow(1, 0, num_heads));
  const Tensor k = pad(repeat(rotated.narrow(1, num_heads, num_kv_heads)));
  const Tensor v = pad(repeat(heads.narrow(1, num_heads + num_kv_heads, num_kv_heads)));
  // The padding is on the right, so the causal mask alone hides it from every token.
  const Tensor attended =
      at::scaled_dot_product_attention(q, k, v, {}, /*dropout_p=*/0.0, /*is_causal=*/true);
  return attended.transpose(1, 2).index({row, position}).reshape({qkv.size(0), num_heads * dim});
}

void store_keys_values(KvCache& cache, const Tensor& qkv, const Rope& rope,
                       const AttentionShape& shape, const Tensor& rows, const Tensor& positions) {
  const auto [num_heads, num_kv_heads, dim] = shape;
  const Tensor heads = qkv.view({qkv.size(0), -1, dim});  // (N, H + 2K, D)
  const Tensor keys = apply_rope(heads.narrow(1, num_heads, num_kv_heads), rope, positions);
  const Tensor values = heads.narrow(1, num_heads + num_kv_heads, num_kv_heads);
  const int64_t block = cache.keys.size(4), pack = cache.pack();
  const Tensor block_index = torch::div(positions, block, "floor");
  const Tensor pack_index = torch::div(positions, pack, "floor");
  cache.keys.index_put_({rows, Slice(), block_index, Slice(), positions.remainder(block)},
                        keys.view({keys.size(0), num_kv_heads, dim / pack, pack}));
  cache.values.index_put_({rows, Slice(), pack_index, Slice(), positions.remainder(pack)}, values);
}

Tensor cached_attention_reference(KvCache& cache, const Tensor& qkv, const Rope& rope,
                                  const AttentionShape& shape, const Tensor& rows,
                                  const Tensor& positions, int64_t length) {
  store_keys_values(cache, qkv, rope, shape, rows, positions);
  const auto [num_heads, num_kv_heads, dim] = shape;
  const int64_t batch = qkv.size(0), block = cache.keys.size(4);
  const int64_t blocks = (length + block - 1) / block, padded = blocks * block;
  const auto select = [&](const Tensor& part) {  // no copy while no sequence has ended
    return rows.size(0) == part.size(0) ? part : part.index_select(0, rows);
  };
  const Tensor heads = qkv.view({batch, -1, dim});
  const Tensor query = apply_rope(heads.narrow(1, 0, num_heads), rope, positions)
                           .view({batch, num_kv_heads, -1, dim});  // (B, K, H / K, D)
  const Tensor keys = select(cache.keys.narrow(2, 0, blocks))
                          .permute({0, 1, 3, 5, 2, 4})  // (B, K, D / pack, pack, blocks, block)
                          .reshape({batch, num_kv_heads, dim, padded});
  const Tensor values = select(cache.values.narrow(2, 0, padded / cache.pack()))
                            .transpose(3, 4)
                            .reshape({batch, num_kv_heads, padded, dim});
  const Tensor scores = torch::matmul(query, keys).to(torch::kFloat32);  // (B, K, H / K, padded)
  const Tensor unseen =
      torch::arange(padded, qkv.device()).unsqueeze(0) > positions.unsqueeze(1);  // (B, padded)
  const Tensor weights =
      torch::softmax((scores / std::sqrt(static_cast<double>(dim)))
                         .masked_fill(unseen.view({batch, 1, 1, padded}), -INFINITY),
                     /*dim=*/-1);
  return torch::matmul(weights.to(values.scalar_type()), values).view({batch, num_heads * dim});
}

Tensor head_logits(const Tensor& hidden, const Tensor& weight, int64_t vocab_size) {
  const Tensor used = weight.narrow(0, 0, vocab_size).t();  // (d, vocab_size)
  if (hidden.scalar_type() == torch::kFloat32) return hidden.mm(used);
  if (hidden.is_cuda()) return at::mm(hidden, used, torch::kFloat32);  // sums and result in float32
  return hidden.to(torch::kFloat32).mm(used.to(torch::kFloat32));
}

TokenLogProbs token_log_probs_reference(const Tensor& hidden, const Tensor& weight,
                                        const Tensor& targets, double temperature,
                                        int64_t vocab_size) {
  const Tensor wide = weight.narrow(0, 0, vocab_size).to(torch::kFloat32);
  const Tensor logits = hidden.to(torch::kFloat32).mm(wide.t()) / temperature;  // (N, vocab_size)
  const Tensor all = torch::log_softmax(logits, /*dim=*/-1);
  return {all.gather(1, targets.unsqueeze(1)).squeeze(1), -(all.exp() * all).sum(/*dim=*/-1)};
}

SampledTokens sample_tokens(const Tensor& logits, const Tensor& uniforms, double temperature,
                            double top_p) {
  TORCH_CHECK(logits.dim() == 2 && logits.scalar_type() == torch::kFloat32 && uniforms.dim() == 1 &&
                  uniforms.size(0) == logits.size(0) && temperature >= 0 && top_p > 0,
              "sample_tokens: want float32 logits (B, V), uniforms (B,), temperature >= 0, "
              "top_p > 0, got ",
              logits.sizes(), ", ", uniforms.sizes(), ", ", temperature, ", ", top_p);
  const bool greedy = temperature == 0;
  Tensor log_probs = torch::log_softmax(greedy ? logits : logits / temperature, /*dim=*/-1);
  if (greedy) {
    const Tensor ids = logits.argmax(/*dim=*/-1, /*keepdim=*/true);
    return {ids.squeeze(1), log_probs.gather(1, ids).squeeze(1)};
  }
  if (top_p < 1) {
    const auto [sorted, order] = log_probs.exp().sort(/*dim=*/-1, /*descending=*/true);
    // The mass before a token decides, so the first always stays.
    const Tensor dropped_sorted = sorted.cumsum(/*dim=*/-1) - sorted >= top_p;
    const Tensor dropped =
        torch::zeros_like(dropped_sorted).scatter(/*dim=*/-1, order, dropped_sorted);
    log_probs = torch::log_softmax(log_probs.masked_fill(dropped, -INFINITY), /*dim=*/-1);
  }
  const Tensor cumulative = log_probs.to(torch::kFloat64).exp_().cumsum_(/*dim=*/-1);  // (B, V)
  const Tensor total = cumulative.slice(/*dim=*/1, -1);  // (B, 1), 1 but for rounding
  const Tensor threshold = uniforms.to(logits.device()).unsqueeze(1) * total;
  const Tensor ids = torch::searchsorted(cumulative, threshold, /*out_int32=*/false, /*right=*/true)
                         .clamp_max(logits.size(1) - 1);
  return {ids.squeeze(1), log_probs.gather(1, ids).squeeze(1)};
}

}  // namespace tiny_zero
