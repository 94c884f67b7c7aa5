#pragma once
// Counter-based randomness: a draw is a pure function of the seed and of what it is for, so nothing depends on the
// order of calls, and the random state of a run is its seed and its step.

#include <array>
#include <bit>
#include <cstddef>
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

/// A sequence of random numbers for tasks: the same three keys give the same sequence on every machine.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream, uint64_t index)
      : state_(mix_bits(mix_bits(mix_bits(seed) ^ stream) ^ index)) {}
  uint64_t next() { return mix_bits(state_ += 0x9e3779b97f4a7c15ULL); }
  int64_t between(int64_t min, int64_t max) {  // both ends included
    __extension__ using Wide = unsigned __int128;
    return min + static_cast<int64_t>((static_cast<Wide>(max - min) + 1) * next() >> 64);
  }
  bool chance(double probability) { return static_cast<double>(next() >> 11) * 0x1p-53 < probability; }

 private:
  uint64_t state_;
};

/// Place `index` of a random order of [0, size), computed without storing the order: a Feistel network permutes the
/// next power of four, and walking on while outside leaves a permutation of [0, size).
inline size_t shuffled(size_t index, size_t size, Random random) {
  const int half = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t low = (uint64_t{1} << half) - 1;
  const std::array<uint64_t, 4> round_keys = {random.next(), random.next(), random.next(), random.next()};
  do {
    for (const uint64_t round_key : round_keys) {
      const uint64_t left = index >> half, right = index & low;
      index = (right << half) | (left ^ (mix_bits(right + round_key) & low));
    }
  } while (index >= size);
  return index;
}

}  // namespace tiny_zero
