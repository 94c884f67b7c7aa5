#pragma once
// What the CPU kernels share. They compute on sixteen floats at a time through the compiler's
// vector extension: one AVX-512 register, two of AVX2, four of SSE or NEON. Tensors are float32 or
// bfloat16, the upper half of a float32: a kernel is a template over that type and computes in
// float32 between its load()s and store()s.

#include <c10/core/TensorOptions.h>
#include <c10/util/BFloat16.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace tiny_zero::vec {

constexpr int64_t kLanes = 16;

/// Whether the fused code applies: float32 or bfloat16 on the CPU, in rows of whole vectors.
inline bool applies(const c10::TensorOptions& options, int64_t width) {
  return options.device().is_cpu() && width % kLanes == 0 &&
         (options.dtype() == c10::kFloat || options.dtype() == c10::kBFloat16);
}

/// body(T{}) for the element type T of tensors to which the fused code applies.
template <class Body>
auto dispatch(const c10::TensorOptions& options, const Body& body) {
  return options.dtype() == c10::kFloat ? body(float{}) : body(c10::BFloat16{});
}

/// The smallest multiple of kLanes that is at least n.
inline int64_t round_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));

inline f32x16 load(const float* from) {
  f32x16 value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline f32x16 load(const c10::BFloat16* from) {
  u16x16 upper;
  std::memcpy(&upper, from, sizeof upper);
  return std::bit_cast<f32x16>(__builtin_convertvector(upper, u32x16) << 16);
}
inline void store(float* to, f32x16 value) { std::memcpy(to, &value, sizeof value); }

/// The bits of floats, rounded so that their upper halves are the nearest bfloat16, ties to even.
template <class Bits>
inline Bits rounded_to_upper(Bits bits) {
  return bits + 0x7fffU + ((bits >> 16) & 1U);
}
inline void store(c10::BFloat16* to, f32x16 value) {
  const u32x16 bits = rounded_to_upper(std::bit_cast<u32x16>(value));
  const u16x16 upper = __builtin_convertvector(bits >> 16, u16x16);
  std::memcpy(to, &upper, sizeof upper);
}
/// One number, without the branch of c10's own conversion, which would not be vectorized.
inline void store(float* to, float value) { *to = value; }
inline void store(c10::BFloat16* to, float value) {
  to->x = static_cast<uint16_t>(rounded_to_upper(std::bit_cast<uint32_t>(value)) >> 16);
}

/// Copies `size` numbers, a multiple of 16, from one type to another.
template <class From, class To>
inline void convert(const From* from, int64_t size, To* to) {
  for (int64_t i = 0; i < size; i += kLanes) store(to + i, load(from + i));
}
inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }
inline f32x16 min(f32x16 a, f32x16 b) { return a < b ? a : b; }

/// All sixteen numbers combined, in four steps rather than in a chain of fifteen.
template <class Combine>
inline float reduce(f32x16 value, const Combine& combine) {
  using f32x8 = float __attribute__((vector_size(32)));
  using f32x4 = float __attribute__((vector_size(16)));
  const auto halves = std::bit_cast<std::array<f32x8, 2>>(value);
  const auto quarters = std::bit_cast<std::array<f32x4, 2>>(combine(halves[0], halves[1]));
  const f32x4 four = combine(quarters[0], quarters[1]);
  return combine(combine(four[0], four[2]), combine(four[1], four[3]));
}
inline float sum(f32x16 value) {
  return reduce(value, [](auto a, auto b) { return a + b; });
}
inline float max(f32x16 value) {
  return reduce(value, [](auto a, auto b) { return a > b ? a : b; });
}

/// e^x within 2 ulp for x in [-87, 88]; beyond it, the value at the nearer end. As Cephes' expf:
/// 2^n times a polynomial in the remainder.
inline f32x16 exp(f32x16 x) {
  x = min(max(x, f32x16{} - 87.0F), f32x16{} + 88.0F);
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const f32x16 n = (x * 1.44269504F + kRound) - kRound;
  const f32x16 r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  f32x16 p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const i32x16 exponent = (__builtin_convertvector(n, i32x16) + 127) << 23;
  f32x16 scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  return p * scale;
}

struct ExpRow {
  float max, sum;  // of the scores; of their exponentials
};

/// A row of softmax before the division, in place: exp(score - max) for [0, length), 0 from there
/// to `padded`, a multiple of 16.
inline ExpRow exponentiate(float* row, int64_t length, int64_t padded) {
  const int64_t full = round_up(length);
  std::fill(row + length, row + full, -INFINITY);
  f32x16 largest = load(row), sums{};
  for (int64_t j = kLanes; j < full; j += kLanes) largest = max(largest, load(row + j));
  const float top = max(largest);
  for (int64_t j = 0; j < full; j += kLanes) store(row + j, exp(load(row + j) - top));
  std::fill(row + length, row + padded, 0.0F);  // exp() ends at e^-87, not at 0
  for (int64_t j = 0; j < full; j += kLanes) sums += load(row + j);
  return {top, sum(sums)};
}

/// to = R(position) from * scale, where R rotates the pairs (i, i + D / 2); kDirection -1 rotates
/// back.   [RoFormer]
template <int kDirection = 1, class From, class To>
inline void rotate(const From* from, const float* cos, const float* sin, int64_t position,
                   int64_t dim, float scale, To* to) {
  const int64_t half = dim / 2;
  cos += position * half;
  sin += position * half;
  const auto turn = [&](auto x, auto y, auto c, auto s, int64_t i) {
    store(to + i, x * c - y * s);
    store(to + i + half, y * c + x * s);
  };
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    turn(load(from + i), load(from + i + half), load(cos + i) * scale,
         load(sin + i) * (kDirection * scale), i);
  }
  for (; i < half; ++i) {
    turn(static_cast<float>(from[i]), static_cast<float>(from[i + half]), cos[i] * scale,
         sin[i] * (kDirection * scale), i);
  }
}

// Small matrix products for attention. The factors of float32 tensors are their numbers, those of
// bfloat16 tensors pairs of numbers that follow one another along the depth, the first in the lower
// half: one instruction multiplies both and adds them to a float32 sum.
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, float>, float, uint32_t>;
template <class T>
constexpr int64_t kPack = sizeof(Factor<T>) / sizeof(T);  // numbers in a factor

inline u32x16 load(const uint32_t* from) {
  u32x16 value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline f32x16 multiply_add(float a, f32x16 b, f32x16 sums) { return sums + a * b; }
inline f32x16 multiply_add(uint32_t a, u32x16 b, f32x16 sums) {
#ifdef __AVX512BF16__
  const __m512i pairs = _mm512_set1_epi32(static_cast<int32_t>(a));
  return std::bit_cast<f32x16>(_mm512_dpbf16_ps(
      std::bit_cast<__m512>(sums), std::bit_cast<__m512bh>(pairs), std::bit_cast<__m512bh>(b)));
#else
  constexpr uint32_t kUpper = 0xffff0000U;
  return sums + std::bit_cast<float>(a << 16) * std::bit_cast<f32x16>(b << 16) +
         std::bit_cast<float>(a & kUpper) * std::bit_cast<f32x16>(b & kUpper);
#endif
}

/// A matrix of factors in memory: element (i, j) is at[i * row + j * column].
template <class F>
struct Matrix {
  const F* at;
  int64_t row, column = 1;
  Matrix transposed() const { return {at, column, row}; }
};

/// `rows` rows of a tensor as the left side of a product, factors along the row.
template <class T>
Matrix<Factor<T>> left(const T* rows, int64_t row) {
  return {reinterpret_cast<const Factor<T>*>(rows), row / kPack<T>};
}

/// `depth` rows of numbers as the right side of a product, or transposed as the left one: where
/// they are, or bfloat16 paired with the row below, in `memory`.
inline Matrix<float> right(const float* rows, int64_t row, int64_t, int64_t, float*) {
  return {rows, row};
}
template <class From>
Matrix<uint32_t> right(const From* rows, int64_t row, int64_t depth, int64_t columns,
                       uint32_t* memory) {
  for (int64_t i = 0; i < depth; i += 2) {
    for (int64_t j = 0; j < columns; j += kLanes) {
      const auto bits = [&](int64_t k) {
        return k < depth ? rounded_to_upper(std::bit_cast<u32x16>(load(rows + k * row + j)))
                         : u32x16{};
      };
      const u32x16 pairs = bits(i) >> 16 | (bits(i + 1) & 0xffff0000U);
      std::memcpy(memory + i / 2 * columns + j, &pairs, sizeof pairs);
    }
  }
  return {memory, columns};
}

/// C (+)= A B for a block of kRows x (kVectors * 16), held in registers. The numbers stay in
/// registers; a struct here cost 10 % of the speed.
template <int kRows, int kVectors, bool kAccumulate, class F>
inline void matmul_block(int64_t depth, const F* a, int64_t a_row, int64_t a_col, const F* b,
                         int64_t b_row, float* c, int64_t c_row) {
  f32x16 sums[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j)
      sums[i][j] = kAccumulate ? load(c + i * c_row + j * kLanes) : f32x16{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    decltype(load(b)) columns[kVectors];  // of row k of B
    for (int j = 0; j < kVectors; ++j) columns[j] = load(b + k * b_row + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      F scalar;
      std::memcpy(&scalar, a + i * a_row + k * a_col, sizeof scalar);
      for (int j = 0; j < kVectors; ++j) sums[i][j] = multiply_add(scalar, columns[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) store(c + i * c_row + j * kLanes, sums[i][j]);
  }
}

template <int kVectors, bool kAccumulate, class F>
inline void matmul_columns(int64_t rows, int64_t depth, Matrix<F> a, Matrix<F> b, float* c,
                           int64_t c_row) {
  int64_t i = 0;
  const auto blocks = [&]<int kRows>() {
    for (; i + kRows <= rows; i += kRows) {
      matmul_block<kRows, kVectors, kAccumulate>(depth, a.at + i * a.row, a.row, a.column, b.at,
                                                 b.row, c + i * c_row, c_row);
    }
  };
  blocks.template operator()<6>();  // 6 x 2 sums and 2 columns: 14 of the 16 or 32 registers
  blocks.template operator()<2>();
  blocks.template operator()<1>();
}

/// C (rows x columns) (+)= A (rows x depth) B (depth x columns), for tiles that fit the cache; the
/// depth counts factors. The columns of B and C are contiguous; `columns` is rounded up to 16, so
/// their rows must be padded to that.
template <bool kAccumulate = false, class F>
inline void matmul(int64_t rows, int64_t columns, int64_t depth, Matrix<F> a, Matrix<F> b, float* c,
                   int64_t c_row) {
  for (; columns > kLanes; columns -= 2 * kLanes, b.at += 2 * kLanes, c += 2 * kLanes)
    matmul_columns<2, kAccumulate>(rows, depth, a, b, c, c_row);
  if (columns > 0) matmul_columns<1, kAccumulate>(rows, depth, a, b, c, c_row);
}

}  // namespace tiny_zero::vec
