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
  template <class T = float>
  T* get(int64_t size, bool zeroed = false) {
    if (static_cast<int64_t>(memory.size()) < size) memory.resize(size);
    if (zeroed) std::fill_n(memory.begin(), size, 0.0F);
    return reinterpret_cast<T*>(memory.data());
  }
};

/// to[d][t] = from[t][d], zero in the columns from `length` to `padded`.
template <class F>
vec::Matrix<F> transpose(vec::Matrix<F> from, int64_t length, int64_t dim, F* to, int64_t padded) {
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t t = 0; t < length; ++t)
      std::memcpy(to + d * padded + t, from.at + t * from.row + d, sizeof(F));
    std::fill(to + d * padded + length, to + (d + 1) * padded, F{});
  }
  return {to, padded};
}

/// Scores in the type of the tensors: in place, or copied.
inline const float* narrowed(const float* scores, int64_t, float*) { return scores; }
inline const c10::BFloat16* narrowed(const float* scores, int64_t size, c10::BFloat16* memory) {
  vec::convert(scores, size, memory);
  return memory;
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
  void gather_rotated(const T* from, int64_t length, float factor, T* to) const {
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
  using F = vec::Factor<T>;
  static constexpr int64_t kPack = vec::kPack<T>;

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
      thread_local Scratch memory[6];
      const int64_t first = item.first, length = item.length, padded = vec::round_up(length);
      const T* rows = from + first * width;         // (T, width)
      T* rotated = memory[0].get<T>(length * dim);  // (T, D): the keys, then the queries
      at.gather_rotated(rows + item.key_column, length, 1.0F, rotated);
      const auto keys_t = transpose(vec::left(rotated, dim), length, dim / kPack,
                                    memory[1].get<F>(dim * padded), padded);
      const auto values = vec::right(rows + item.value_column, width, length, dim,
                                     memory[2].get<F>((length + 1) * dim));
      for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
        at.gather_rotated(rows + head * dim, length, at.scale, rotated);
        for (int64_t i = 0; i < length; i += kTileRows) {
          // Causal: query rows i .. i + tile see the first `seen` keys.
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
          const int64_t stride = vec::round_up(seen);
          float* scores = memory[3].get(tile * stride);  // (tile, seen)
          vec::matmul(tile, seen, dim / kPack, vec::left(rotated + i * dim, dim), keys_t, scores,
                      stride);
          causal_softmax(scores, tile, i, stride, lse + (first + i) * shape.num_heads + head,
                         shape.num_heads);
          const T* probs = narrowed(scores, tile * stride, memory[4].get<T>(tile * stride));
          float* mixed = memory[5].get(tile * dim);  // (tile, D)
          vec::matmul(tile, dim, (seen + kPack - 1) / kPack, vec::left(probs, stride), values,
                      mixed, dim);
          for (int64_t t = 0; t < tile; ++t)
            vec::convert(mixed + t * dim, dim, to + (first + i + t) * out_width + head * dim);
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
      thread_local Scratch memory[14];
      const int64_t first = item.first, length = item.length, padded = vec::round_up(length);
      const T* rows = from + first * width;
      T* grad_rows = to + first * width;  // (T, width), as `rows`
      T *rotated_keys = memory[0].get<T>(length * dim), *queries = memory[1].get<T>(length * dim);
      float *grad_queries = memory[2].get(length * dim),
            *grad_keys = memory[3].get(length * dim, /*zeroed=*/true),
            *grad_values = memory[4].get(length * dim, /*zeroed=*/true);
      at.gather_rotated(rows + item.key_column, length, 1.0F, rotated_keys);
      const auto keys =
          vec::right(rotated_keys, dim, length, dim, memory[5].get<F>((length + 1) * dim));
      const auto keys_t = transpose(vec::left(rotated_keys, dim), length, dim / kPack,
                                    memory[6].get<F>(dim * padded), padded);
      const auto values_t = transpose(vec::left(rows + item.value_column, width), length,
                                      dim / kPack, memory[7].get<F>(dim * padded), padded);
      for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
        at.gather_rotated(rows + head * dim, length, at.scale, queries);
        for (int64_t i = 0; i < length; i += kTileRows) {
          const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
          const int64_t stride = vec::round_up(seen), packs = (tile + kPack - 1) / kPack;
          float* probs = memory[8].get(tile * stride);        // (tile, seen): S, then P
          float* grad_scores = memory[9].get(tile * stride);  // (tile, seen): dP, then dS
          const T* query = queries + i * dim;                 // (tile, D)
          const T* grad_out = up + (first + i) * out_width + head * dim;  // (tile, D)
          vec::matmul(tile, seen, dim / kPack, vec::left(query, dim), keys_t, probs, stride);
          vec::matmul(tile, seen, dim / kPack, vec::left(grad_out, out_width), values_t,
                      grad_scores, stride);
          causal_softmax_backward(probs, grad_scores, tile, i, stride,
                                  lse + (first + i) * shape.num_heads + head, shape.num_heads);
          const T* narrow = narrowed(grad_scores, tile * stride, memory[10].get<T>(tile * stride));
          vec::matmul(tile, dim, (seen + kPack - 1) / kPack, vec::left(narrow, stride), keys,
                      grad_queries + i * dim, dim);
          // Keys and values gather from every tile and every head.
          F *left = memory[11].get<F>((tile + 1) * stride),
            *right = memory[12].get<F>((tile + 1) * dim);
          vec::matmul<true>(seen, dim, packs,
                            vec::right(grad_scores, stride, tile, stride, left).transposed(),
                            vec::right(query, dim, tile, dim, right), grad_keys, dim);
          vec::matmul<true>(seen, dim, packs,
                            vec::right(probs, stride, tile, stride, left).transposed(),
                            vec::right(grad_out, out_width, tile, dim, right), grad_values, dim);
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
