// Products with the weights of a model that samples: few rows, another number of them whenever a
// response ends, and the same weights for thousands of calls. LibTorch lays bfloat16 weights out
// anew at every call and compiles code for every number of rows that it meets.

#include <ATen/Parallel.h>

#include <bit>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/kernels/vec.h"

namespace tiny_zero {
namespace {

using torch::Tensor;
using vec::kLanes;

constexpr int64_t kPanel = 32;  // columns of the result that are computed side by side
constexpr int64_t kRows = 24;   // rows per task, a multiple of matmul's blocks of six

/// residual + scale (x weight^T + bias); bias and residual may be undefined.
/// @param x (N, in) bfloat16   @param packed  of pack_weight()   @return (N, out) bfloat16
Tensor packed_projection(const Tensor& x, const Tensor& packed, const Tensor& bias,
                         const Tensor& residual, float scale) {
  const int64_t rows = x.size(0), pairs = packed.size(1), out = packed.size(0) * kPanel;
  const Tensor input = x.contiguous(),
               added = residual.defined() ? residual.contiguous() : residual;
  Tensor y = torch::empty({rows, out}, x.options());
  using T = c10::BFloat16;
  const T *from = input.data_ptr<T>(), *biases = bias.defined() ? bias.data_ptr<T>() : nullptr,
          *add = added.defined() ? added.data_ptr<T>() : nullptr;
  const auto* weights = reinterpret_cast<const uint32_t*>(packed.data_ptr<int32_t>());
  T* to = y.data_ptr<T>();
  at::parallel_for(0, (rows + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    float sums[kRows * kPanel];
    for (int64_t first = begin * kRows; first < std::min(rows, end * kRows); first += kRows) {
      const int64_t count = std::min(kRows, rows - first);
      for (int64_t column = 0; column < out; column += kPanel) {
        vec::matmul(count, kPanel, pairs, vec::left(from + first * 2 * pairs, 2 * pairs),
                    {weights + column * pairs, kPanel}, sums, kPanel);
        for (int64_t i = 0; i < count * kPanel; i += kLanes) {
          const int64_t j = column + i % kPanel, at = (first + i / kPanel) * out + j;
          vec::f32x16 sum = vec::load(sums + i);
          if (biases) sum += vec::load(biases + j);
          vec::store(to + at, add ? vec::load(add + at) + scale * sum : sum);
        }
      }
    }
  });
  return y;
}

bool is_packed(const Tensor& weight) { return weight.scalar_type() == torch::kInt32; }

}  // namespace

int64_t padded_rows(int64_t rows, const torch::TensorOptions& options) {
  if (!options.device().is_cpu() || options.dtype() != torch::kBFloat16) return rows;
  const auto octave = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows)));
  const int64_t step = std::max<int64_t>(64, octave / 8);
  return (rows + step - 1) / step * step;
}

Tensor pack_weight(const Tensor& weight) {
#if defined(__AVX512BF16__)  // with AMX, LibTorch's product is faster all the same
  const bool faster = !__builtin_cpu_supports("amx-bf16");
#else
  const bool faster = false;
#endif
  if (!faster || !weight.device().is_cpu() || weight.scalar_type() != torch::kBFloat16 ||
      weight.size(0) % kPanel != 0 || weight.size(1) % 2 != 0)
    return weight;
  return weight.contiguous()
      .view(torch::kInt32)
      .view({-1, kPanel, weight.size(1) / 2})
      .transpose(1, 2)
      .contiguous();
}

Tensor project(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return is_packed(weight) ? packed_projection(x, weight, bias, {}, 1)
                           : torch::linear(x, weight, bias);
}

Tensor add_projection(const Tensor& residual, const Tensor& x, const Tensor& weight, double scale) {
  return is_packed(weight) ? packed_projection(x, weight, {}, residual, static_cast<float>(scale))
                           : torch::addmm(residual, x, weight.t(), /*beta=*/1, /*alpha=*/scale);
}

}  // namespace tiny_zero
