// Causal attention over packed sequences of any length. A work item is one key-value head of one
// sequence: its keys and values stay in the processor's cache while tiles of query rows pass by, so
// the (T, T) scores never reach memory.

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

constexpr int64_t kTileRows = 30;  // query rows per tile, a multiple of matmul's blocks of six

/// Scratch memory of one thread, grown on demand and kept. Contents are unspecified unless
/// `zeroed`.
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

/// `length` rows of D numbers as floats: in place, or copied if they are bfloat16.
inline vec::Matrix widened(const float* from, int64_t row, int64_t, int64_t, Scratch&) {
  return {from, row};
}
inline vec::Matrix widened(const c10::BFloat16* from, int64_t row, int64_t length, int64_t dim,
                           Scratch& memory) {
  float* to = memory.get(length * dim);
  for (int64_t t = 0; t < length; ++t) vec::convert(from + t * row, dim, to + t * dim);
  return {to, dim};
}

/// One key-value head of one sequence.
struct Item {
  int64_t first, length;                // its tokens are rows first .. first + length
  int64_t key_column, value_column;     // of its key and value head in qkv
  int64_t query_head, query_heads_end;  // the query heads that it serves
};

/// What both passes need to know of the packed tensors.
struct Layout {
  AttentionShape shape;
  const std::vector<int64_t>& starts;
  const float *cos, *sin;  // (positions, D / 2)
  const int64_t width = shape.qkv_width(), out_width = shape.num_heads * shape.head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));

  int64_t items() const { return static_cast<int64_t>(starts.size() - 1) * shape.num_kv_heads; }
  Item item(int64_t index) const {
    const int64_t kv_heads = shape.num_kv_heads, group = shape.num_heads / kv_heads;
    const int64_t s = index / kv_heads, head = index % kv_heads;
    const int64_t first = starts[s], key = shape.key_column(head), value = shape.value_column(head);
    return {first, starts[s + 1] - first, key, value, head * group, (head + 1) * group};
  }
  /// Copies the (length, D) rows of a head out of the packed tensor, rotated and times `factor`.
  template <class T>
  void gather_rotated(const T* from, int64_t length, float factor, float* to) const {
    for (int64_t t = 0; t < length; ++t)
      vec::rotate(from + t * width, cos, sin, t, shape.head_dim, factor, to + t * shape.head_dim);
  }
  /// The transpose of gather_rotated(): the gradient rotates back.
  template <class T>
  void scatter_unrotated(const float* from, int64_t length, float factor, T* to) const {
    for (int64_t t = 0; t < length; ++t)
      vec::rotate<-1>(from + t * shape.head_dim, cos, sin, t, shape.head_dim, factor,
                      to + t * width);
  }
};

/// Scores to probabilities, in place. Row i sees the keys 0 .. first + i; the rest, up to `padded`,
/// gets 0. `log_sum_exp` has one number per row, `stride` apart.
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

/// Scores to probabilities P = exp(S - log_sum_exp), and the gradient dP of those to that of the
/// scores, dS = P (dP - rowsum(P dP)); both in place, rows as in causal_softmax().
void causal_softmax_backward(float* scores, float* grads, int64_t rows, int64_t first,
                             int64_t padded, const float* log_sum_exp, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i) {
    float *p = scores + i * padded, *ds = grads + i * padded;
    const float row_lse = log_sum_exp[i * stride];
    const int64_t seen = first + i + 1;
    for (int64_t j = 0; j < seen; j += kLanes)
      vec::store(p + j, vec::exp(vec::load(p + j) - row_lse));
    std::fill(p + seen, p + padded, 0.0F);
    f32x16 sums{};
    for (int64_t j = 0; j < seen; j += kLanes) sums += vec::load(p + j) * vec::load(ds + j);
    const float delta = vec::sum(sums);
    for (int64_t j = 0; j < padded; j += kLanes)
      vec::store(ds + j, vec::load(p + j) * (vec::load(ds + j) - delta));
  }
}

template <class T>
struct PackedAttention : torch::autograd::Function<PackedAttention<T>> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& cos,
                        const Tensor& sin, const std::vector<int64_t>& starts,
                        const AttentionShape& shape) {
    const Tensor qkv = input.contiguous();
    const Layout at{shape, starts, cos.data_ptr<float>(), sin.data_ptr<float>()};
    const int64_t dim = shape.head_dim, width = at.width, out_width = at.out_width;
    Tensor output = torch::empty({qkv.size(0), out_width}, qkv.options());
    Tensor log_sum_exp = torch::empty({qkv.size(0), shape.num_heads}, torch::kFloat32);
    const T* from = qkv.data_ptr<T>();
    T* to = output.data_ptr<T>();
    float* lse = log_sum_exp.data_ptr<float>();

#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t index = 0; index < at.items(); ++index) {
      const Item item = at.item(index);
      thread_local Scratch memory[5];
      const int64_t first = item.first, length = item.length, padded = vec::round_up(length);
      const T* rows = from + first * width;          // (T, width)
      float* rotated = memory[0].get(length * dim);  // (T, D): the keys, then the queries
      float* keys = memory[1].get(dim * padded);     // (D, T padded)
      const vec::Matrix values =                     // (T, D)
          widened(rows + item.value_column, width, length, dim, memory[2]);
      at.gather_rotated(rows + item.key_column, length, 1.0F, rotated);
      transpose(rotated, dim, length, dim, keys, padded);
      for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
        at.gather_rotated(rows + head * dim, length, at.scale, rotated);
        for (int64_t i = 0; i < length; i += kTileRows) {
          // Causal: query rows i .. i + tile see the first `seen` keys.
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
          const int64_t stride = vec::round_up(seen);
          float* scores = memory[3].get(tile * stride);  // (tile, seen)
          vec::matmul(tile, seen, dim, {rotated + i * dim, dim}, {keys, padded}, scores, stride);
          causal_softmax(scores, tile, i, stride, lse + (first + i) * shape.num_heads + head,
                         shape.num_heads);
          T* out = to + (first + i) * out_width + head * dim;  // (tile, D)
          if constexpr (std::is_same_v<T, float>) {
            vec::matmul(tile, dim, seen, {scores, stride}, values, out, out_width);
          } else {
            float* wide = memory[4].get(tile * dim);
            vec::matmul(tile, dim, seen, {scores, stride}, values, wide, dim);
            for (int64_t t = 0; t < tile; ++t)
              vec::convert(wide + t * dim, dim, out + t * out_width);
          }
        }
      }
    }
    context->save_for_backward({qkv, log_sum_exp, cos, sin});
    context->saved_data["starts"] = starts;
    context->saved_data["shape"] =
        std::vector<int64_t>{shape.num_heads, shape.num_kv_heads, shape.head_dim};
    return output;
  }

  /// With P = exp(S - log_sum_exp) computed anew:
  ///   dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)),  dQ = dS K,  dK = dS^T Q
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto starts = context->saved_data["starts"].toIntVector(),
               dims = context->saved_data["shape"].toIntVector();
    const AttentionShape shape{dims[0], dims[1], dims[2]};
    const Tensor qkv = saved[0], upstream = grads[0].contiguous();
    const Layout at{shape, starts, saved[2].data_ptr<float>(), saved[3].data_ptr<float>()};
    const int64_t dim = shape.head_dim, width = at.width, out_width = at.out_width;
    Tensor gradient = torch::empty_like(qkv);
    const T *from = qkv.data_ptr<T>(), *up = upstream.data_ptr<T>();
    const float* lse = saved[1].data_ptr<float>();
    T* to = gradient.data_ptr<T>();

#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t index = 0; index < at.items(); ++index) {
      const Item item = at.item(index);
      thread_local Scratch memory[11];
      const int64_t first = item.first, length = item.length, padded = vec::round_up(length);
      const T* rows = from + first * width;
      T* grad_rows = to + first * width;  // (T, width), as `rows`
      float *keys = memory[0].get(length * dim), *keys_t = memory[1].get(dim * padded);
      float *queries = memory[2].get(length * dim), *values_t = memory[3].get(dim * padded);
      float *grad_queries = memory[4].get(length * dim),
            *grad_keys = memory[5].get(length * dim, /*zeroed=*/true),
            *grad_values = memory[6].get(length * dim, /*zeroed=*/true);
      at.gather_rotated(rows + item.key_column, length, 1.0F, keys);
      transpose(keys, dim, length, dim, keys_t, padded);
      const vec::Matrix values =
          widened(rows + item.value_column, width, length, dim, memory[9]);
      transpose(values.at, values.row, length, dim, values_t, padded);
      for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
        at.gather_rotated(rows + head * dim, length, at.scale, queries);
        const vec::Matrix upstream_head =  // (T, D)
            widened(up + first * out_width + head * dim, out_width, length, dim, memory[10]);
        for (int64_t i = 0; i < length; i += kTileRows) {
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
          const int64_t stride = vec::round_up(seen);
          float* probs = memory[7].get(tile * stride);        // (tile, seen): S, then P
          float* grad_scores = memory[8].get(tile * stride);  // (tile, seen): dP, then dS
          const float* query = queries + i * dim;             // (tile, D)
          const vec::Matrix grad_out = upstream_head.from(i);  // (tile, D)
          vec::matmul(tile, seen, dim, {query, dim}, {keys_t, padded}, probs, stride);
          vec::matmul(tile, seen, dim, grad_out, {values_t, padded}, grad_scores,
                      stride);
          causal_softmax_backward(probs, grad_scores, tile, i, stride,
                                  lse + (first + i) * shape.num_heads + head, shape.num_heads);
          vec::matmul(tile, dim, seen, {grad_scores, stride}, {keys, dim}, grad_queries + i * dim,
                      dim);
          // Keys and values gather from every tile and every head; stride and 1 swapped transpose.
          vec::matmul<true>(seen, dim, tile, {grad_scores, 1, stride}, {query, dim}, grad_keys,
                            dim);
          vec::matmul<true>(seen, dim, tile, {probs, 1, stride}, grad_out, grad_values,
                            dim);
        }
        at.scatter_unrotated(grad_queries, length, at.scale, grad_rows + head * dim);
      }
      at.scatter_unrotated(grad_keys, length, 1.0F, grad_rows + item.key_column);
      for (int64_t t = 0; t < length; ++t)
        vec::convert(grad_values + t * dim, dim, grad_rows + t * width + item.value_column);
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
  return vec::dispatch(qkv.options(), [&]<class T>(T) {
    return PackedAttention<T>::apply(qkv, rope.cos, rope.sin, starts, shape);
  });
}

}  // namespace tiny_zero
