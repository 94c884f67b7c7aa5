#pragma once
// Counter-based randomness: a draw is a pure function of the seed and of what it is for, so nothing depends on the
// order of calls, and the random state of a run is its seed and its step.

#include <cstdint>

namespace tiny_zero {

/// What a draw is for; streams never overlap.
enum class Stream : uint64_t { weights = 1, sampling, shuffle, value_head };

/// SplitMix64's output function (Steele, Lea, Flood 2014): a bijection whose outputs pass statistical tests.
inline uint64_t mix_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

inline uint64_t random_bits(uint64_t seed, Stream stream, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
  uint64_t state = mix_bits(seed);
  for (const uint64_t part : {static_cast<uint64_t>(stream), a, b, c}) state = mix_bits(state ^ part);
  return state;
}

/// Uniform in [0, 1), 53 bits.
inline double random_uniform(uint64_t seed, Stream stream, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
  return static_cast<double>(random_bits(seed, stream, a, b, c) >> 11) * 0x1.0p-53;
}

}  // namespace tiny_zero
