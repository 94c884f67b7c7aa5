#pragma once
// Counter-based randomness: each number is a pure function of the seed and its purpose, so nothing
// depends on the order of calls, and the random state of a run is its seed and its step.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tiny_zero {

/// What a random number is for; streams never overlap.
enum class Stream : uint64_t {
  weights = 1,
  sampling,  // training's responses; `evaluation`, `greedy` and `generation` are those of the verbs
  shuffle,
  value_head,
  evaluation,
  greedy,
  generation,
  lora = 20
};

/// SplitMix64's output function (Steele, Lea, Flood 2014): a bijection whose outputs pass
/// statistical tests.
inline uint64_t mix_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

inline uint64_t random_bits(uint64_t seed, Stream stream, uint64_t a = 0, uint64_t b = 0,
                            uint64_t c = 0) {
  uint64_t state = mix_bits(seed);
  for (const uint64_t part : {static_cast<uint64_t>(stream), a, b, c})
    state = mix_bits(state ^ part);
  return state;
}

/// A 64-bit hash of a text, the same on every machine.
inline uint64_t mix_text(std::string_view text, uint64_t state = 0) {
  for (const char c : text) state = mix_bits(state ^ static_cast<unsigned char>(c));
  return state;
}

/// Bits as a number in [0, 1), by 53 of them.
inline double unit_interval(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

inline double random_uniform(uint64_t seed, Stream stream, uint64_t a = 0, uint64_t b = 0,
                             uint64_t c = 0) {
  return unit_interval(random_bits(seed, stream, a, b, c));
}

/// A sequence of random numbers for tasks: the same three keys give the same sequence on every
/// machine.
class Random {
 public:
  Random(uint64_t seed, uint64_t stream, uint64_t index)
      : state_(mix_bits(mix_bits(mix_bits(seed) ^ stream) ^ index)) {}
  uint64_t next() { return mix_bits(state_ += 0x9e3779b97f4a7c15ULL); }
  int64_t between(int64_t min, int64_t max) {  // both ends included
    __extension__ using Wide = unsigned __int128;
    return min + static_cast<int64_t>((static_cast<Wide>(max - min) + 1) * next() >> 64);
  }
  bool chance(double probability) { return unit_interval(next()) < probability; }

 private:
  uint64_t state_;
};

/// Element `index` of a random permutation of [0, size), computed without storing it: a Feistel
/// network permutes the next power of four, and walking on while outside leaves a permutation of
/// [0, size).
inline size_t shuffled(size_t index, size_t size, Random random) {
  const int half = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t low = (uint64_t{1} << half) - 1;
  const std::array<uint64_t, 4> round_keys = {random.next(), random.next(), random.next(),
                                              random.next()};
  do {
    for (const uint64_t round_key : round_keys) {
      const uint64_t left = index >> half, right = index & low;
      index = (right << half) | (left ^ (mix_bits(right + round_key) & low));
    }
  } while (index >= size);
  return index;
}

/// Index into [0, size) for an endless sequence: every element once in a random order, then again
/// in another.
inline size_t epoch_shuffled(int64_t index, size_t size, uint64_t seed, uint64_t stream) {
  const auto at = static_cast<uint64_t>(index);
  return shuffled(at % size, size, Random(seed, stream, at / size));
}

}  // namespace tiny_zero
