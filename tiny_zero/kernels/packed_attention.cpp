// Causal attention over packed sequences of any length. One work item is one key-value head of one
// sequence: its keys and values stay in the cache while tiles of query rows pass by, so T x T
// scores never reach memory.

#include <ATen/Parallel.h>

#include <cmath>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/kernels/vec.h"

namespace tiny_zero {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using vec::f32x16;
using vec::kLanes;

constexpr int64_t kTileRows =
    30;  // query rows a tile: a multiple of the six rows that matmul_block() holds

/// Scratch of one thread, grown on demand and kept. Contents are unspecified unless `zeroed`.
struct Scratch {
  std::vector<float> memory;
  float* get(int64_t size, bool zeroed = false) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    if (zeroed) std::fill_n(memory.begin(), size, 0.0F);
    return memory.data();
  }
};

/// to[d][t] = from[t][d], zero in the columns from `length` to `padded`.
void transpose(const float* from, int64_t from_row, int64_t length, int64_t dim, float* to,
               int64_t padded) {
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t t = 0; t < length; ++t) to[d * padded + t] = from[t * from_row + d];
    std::fill(to + d * padded + length, to + (d + 1) * padded, 0.0F);
  }
}

/// Everything the two passes share: where a head's rows stand in the packed tensors.
struct Geometry {
  AttentionShape shape;
  const std::vector<int64_t>& starts;
  const float *cos, *sin;  // (positions, D / 2)

  int64_t items() const { return static_cast<int64_t>(starts.size() - 1) * shape.num_kv_heads; }
  int64_t sequence(int64_t item) const { return item / shape.num_kv_heads; }
  int64_t kv_head(int64_t item) const { return item % shape.num_kv_heads; }
  int64_t first(int64_t item) const { return starts[sequence(item)]; }
  int64_t length(int64_t item) const { return starts[sequence(item) + 1] - starts[sequence(item)]; }
  int64_t heads_per_kv() const { return shape.num_heads / shape.num_kv_heads; }
  int64_t key_column(int64_t kv_head) const { return (shape.num_heads + kv_head) * shape.head_dim; }
  int64_t value_column(int64_t kv_head) const {
    return (shape.num_heads + shape.num_kv_heads + kv_head) * shape.head_dim;
  }

  /// Copies a head's (length, D) rows out of the packed tensor, rotated and times `scale`.
  void gather_rotated(const float* from, int64_t length, float scale, float* to) const {
    for (int64_t t = 0; t < length; ++t) {
      vec::rotate(from + t * shape.qkv_width(), cos, sin, t, shape.head_dim, scale,
                  to + t * shape.head_dim);
    }
  }
  /// The transpose of gather_rotated(), which is the rotation backwards.
  void scatter_unrotated(const float* from, int64_t length, float scale, float* to) const {
    for (int64_t t = 0; t < length; ++t) {
      vec::rotate<-1>(from + t * shape.head_dim, cos, sin, t, shape.head_dim, scale,
                      to + t * shape.qkv_width());
    }
  }
};

/// Softmax of the tile's rows in place; row i sees keys 0..first + i, the rest up to `padded`
/// becomes 0.
void causal_softmax(float* scores, int64_t rows, int64_t first, int64_t padded, float* log_sum_exp,
                    int64_t stride) {
  for (int64_t i = 0; i < rows; ++i) {
    float* row = scores + i * padded;
    const int64_t seen = first + i + 1;
    const auto [top, total] = vec::exponentiate(row, seen, padded);
    for (int64_t j = 0; j < seen; j += kLanes) vec::store(row + j, vec::load(row + j) / total);
    log_sum_exp[i * stride] = top + std::log(total);
  }
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& cos,
                        const Tensor& sin, const std::vector<int64_t>& starts,
                        const AttentionShape& shape) {
    const Tensor qkv = input.contiguous();
    const int64_t width = shape.qkv_width(), dim = shape.head_dim,
                  out_width = shape.num_heads * dim;
    Tensor output = torch::empty({qkv.size(0), out_width}, qkv.options());
    Tensor log_sum_exp = torch::empty({qkv.size(0), shape.num_heads}, qkv.options());
    const Geometry at{shape, starts, cos.data_ptr<float>(), sin.data_ptr<float>()};
    const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
    const float* from = qkv.data_ptr<float>();
    float *to = output.data_ptr<float>(), *lse = log_sum_exp.data_ptr<float>();

#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t item = 0; item < at.items(); ++item) {
      thread_local Scratch rotated_memory, keys_memory, scores_memory;
      const int64_t first = at.first(item), length = at.length(item),
                    padded = vec::round_up(length);
      const float* rows = from + first * width;
      float* rotated = rotated_memory.get(length * dim);
      float* keys = keys_memory.get(dim * padded);  // (D, T)
      at.gather_rotated(rows + at.key_column(at.kv_head(item)), length, 1.0F, rotated);
      transpose(rotated, dim, length, dim, keys, padded);
      const float* values = rows + at.value_column(at.kv_head(item));
      for (int64_t h = 0; h < at.heads_per_kv(); ++h) {
        const int64_t head = at.kv_head(item) * at.heads_per_kv() + h;
        float* queries = rotated;  // the rotated keys are in `keys` by now
        at.gather_rotated(rows + head * dim, length, scale, queries);
        for (int64_t i = 0; i < length; i += kTileRows) {
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile,
                        stride = vec::round_up(seen);
          float* scores = scores_memory.get(tile * stride);
          vec::matmul(tile, seen, dim, queries + i * dim, dim, 1, keys, padded, scores, stride);
          causal_softmax(scores, tile, i, stride, lse + (first + i) * shape.num_heads + head,
                         shape.num_heads);
          vec::matmul(tile, dim, seen, scores, stride, 1, values, width,
                      to + (first + i) * out_width + head * dim, out_width);
        }
      }
    }
    context->save_for_backward({qkv, log_sum_exp, cos, sin});
    context->saved_data["starts"] = starts;
    context->saved_data["shape"] =
        std::vector<int64_t>{shape.num_heads, shape.num_kv_heads, shape.head_dim};
    return output;
  }

  /// P = exp(S - lse);  dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)),  dQ = dS K,  dK =
  /// dS^T Q.
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto starts = context->saved_data["starts"].toIntVector(),
               dims = context->saved_data["shape"].toIntVector();
    const AttentionShape shape{dims[0], dims[1], dims[2]};
    const Tensor qkv = saved[0], upstream = grads[0].contiguous();
    const int64_t width = shape.qkv_width(), dim = shape.head_dim,
                  out_width = shape.num_heads * dim;
    Tensor gradient = torch::empty_like(qkv);
    const Geometry at{shape, starts, saved[2].data_ptr<float>(), saved[3].data_ptr<float>()};
    const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
    const float *from = qkv.data_ptr<float>(), *lse = saved[1].data_ptr<float>(),
                *up = upstream.data_ptr<float>();
    float* to = gradient.data_ptr<float>();

#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t item = 0; item < at.items(); ++item) {
      thread_local Scratch memory[9];
      const int64_t first = at.first(item), length = at.length(item),
                    padded = vec::round_up(length);
      const float *rows = from + first * width, *values = rows + at.value_column(at.kv_head(item));
      float* grad_rows = to + first * width;
      float *keys = memory[0].get(length * dim), *keys_t = memory[1].get(dim * padded);
      float *values_t = memory[2].get(dim * padded), *queries = memory[3].get(length * dim);
      float *grad_keys = memory[4].get(length * dim, /*zeroed=*/true),
            *grad_queries = memory[5].get(length * dim);
      float* grad_values = memory[6].get(length * dim, /*zeroed=*/true);
      at.gather_rotated(rows + at.key_column(at.kv_head(item)), length, 1.0F, keys);
      transpose(keys, dim, length, dim, keys_t, padded);
      transpose(values, width, length, dim, values_t, padded);
      for (int64_t h = 0; h < at.heads_per_kv(); ++h) {
        const int64_t head = at.kv_head(item) * at.heads_per_kv() + h;
        at.gather_rotated(rows + head * dim, length, scale, queries);
        for (int64_t i = 0; i < length; i += kTileRows) {
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile,
                        stride = vec::round_up(seen);
          float *probs = memory[7].get(tile * stride), *grad_scores = memory[8].get(tile * stride);
          const float* grad_out = up + (first + i) * out_width + head * dim;
          vec::matmul(tile, seen, dim, queries + i * dim, dim, 1, keys_t, padded, probs, stride);
          vec::matmul(tile, seen, dim, grad_out, out_width, 1, values_t, padded, grad_scores,
                      stride);
          for (int64_t r = 0; r < tile; ++r) {
            float *p = probs + r * stride, *ds = grad_scores + r * stride;
            const float row_lse = lse[(first + i + r) * shape.num_heads + head];
            const int64_t visible = i + r + 1, full = vec::round_up(visible);
            for (int64_t j = 0; j < full; j += kLanes)
              vec::store(p + j, vec::exp(vec::load(p + j) - row_lse));
            std::fill(p + visible, p + stride, 0.0F);
            f32x16 sums{};
            for (int64_t j = 0; j < full; j += kLanes) sums += vec::load(p + j) * vec::load(ds + j);
            const float delta = vec::sum(sums);
            for (int64_t j = 0; j < stride; j += kLanes) {
              vec::store(ds + j, vec::load(p + j) * (vec::load(ds + j) - delta));
            }
          }
          vec::matmul(tile, dim, seen, grad_scores, stride, 1, keys, dim, grad_queries + i * dim,
                      dim);
          vec::matmul<true>(seen, dim, tile, grad_scores, 1, stride, queries + i * dim, dim,
                            grad_keys, dim);
          vec::matmul<true>(seen, dim, tile, probs, 1, stride, grad_out, out_width, grad_values,
                            dim);
        }
        at.scatter_unrotated(grad_queries, length, scale, grad_rows + head * dim);
      }
      at.scatter_unrotated(grad_keys, length, 1.0F, grad_rows + at.key_column(at.kv_head(item)));
      for (int64_t t = 0; t < length; ++t) {
        std::copy_n(grad_values + t * dim, dim,
                    grad_rows + t * width + at.value_column(at.kv_head(item)));
      }
    }
    return {gradient, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor packed_attention(const Tensor& qkv, const Rope& rope, const std::vector<int64_t>& starts,
                        const AttentionShape& shape) {
  TORCH_CHECK(qkv.dim() == 2 && qkv.size(1) == shape.qkv_width(), "packed_attention: qkv is ",
              qkv.sizes(), ", want (N, ", shape.qkv_width(), ")");
  TORCH_CHECK(starts.size() >= 2 && starts.front() == 0 && starts.back() == qkv.size(0),
              "packed_attention: starts must run from 0 to N = ", qkv.size(0), ", got ", starts);
  if (!vec::applies(qkv.options(), shape.head_dim))
    return packed_attention_reference(qkv, rope, starts, shape);
  return PackedAttention::apply(qkv, rope.cos, rope.sin, starts, shape);
}

}  // namespace tiny_zero
