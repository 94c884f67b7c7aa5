#pragma once
// Rotary position embedding of one head, for the fused attention, and of whole tensors, for its
// LibTorch twin.

#include "tiny_zero/kernels/kernels.h"

namespace tiny_zero {

/// to = R(position) from * scale, where R turns the pairs (i, i + D / 2); kDirection -1 turns back.
template <int kDirection = 1>
inline void rotate(const float* from, const float* cos, const float* sin, int64_t position,
                   int64_t dim, float scale, float* to) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float c = cos[position * half + i] * scale,
                s = kDirection * sin[position * half + i] * scale;
    const float x = from[i], y = from[i + half];
    to[i] = x * c - y * s;
    to[i + half] = y * c + x * s;
  }
}

/// @param heads (N, heads, D)   @param positions (N,) int64   @return (N, heads, D) in the type of
/// `heads`
inline torch::Tensor apply_rope(const torch::Tensor& heads, const Rope& rope,
                                const torch::Tensor& positions) {
  const auto cos = rope.cos.index_select(0, positions).unsqueeze(1),
             sin = rope.sin.index_select(0, positions).unsqueeze(1);
  const auto halves = heads.to(torch::kFloat32).chunk(2, /*dim=*/-1);
  const auto rotated = torch::cat(
      {halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, /*dim=*/-1);
  return rotated.to(heads.scalar_type());
}

}  // namespace tiny_zero
