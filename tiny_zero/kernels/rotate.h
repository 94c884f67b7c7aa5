#pragma once
// Rotary position embedding of one head.

#include <cstdint>

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

}  // namespace tiny_zero
