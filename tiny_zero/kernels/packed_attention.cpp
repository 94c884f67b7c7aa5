// Causal attention over packed sequences of any length. A work item is one key-value head of one
// sequence, or of some that begin with the same tokens: its keys and values stay in the processor's
// cache while tiles of query rows pass by, so the (T, T) scores never reach memory.

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

/// What a sequence sees: `shared` tokens of the one that it branches off from, then its own.
struct Sequence {
  int64_t trunk, shared;  // rows trunk .. trunk + shared
  int64_t first, length;  // rows first ..; the length of both parts
  int64_t row(int64_t t) const { return t < shared ? trunk + t : first + t - shared; }
};

/// One key-value head of a sequence and of those that branch off from it.
struct Item {
  int64_t sequence, sequences_end;
  int64_t key_column, value_column;     // of its key and value head in qkv
  int64_t query_head, query_heads_end;  // the query heads that it serves
};

/// What both passes need to know of the packed tensors.
struct Layout {
  AttentionShape shape;
  const std::vector<int64_t>&starts, &shared;
  const float *cos, *sin;  // (positions, D / 2)
  const int64_t width = shape.qkv_width(), out_width = shape.num_heads * shape.head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  const std::vector<int64_t> trunks = find_trunks();  // and where the last one's branches end

  std::vector<int64_t> find_trunks() const {
    std::vector<int64_t> found;
    for (int64_t s = 0; s < std::ssize(starts) - 1; ++s)
      if (shared.empty() || shared[s] == 0) found.push_back(s);
    found.push_back(std::ssize(starts) - 1);
    return found;
  }
  int64_t items() const { return (std::ssize(trunks) - 1) * shape.num_kv_heads; }
  Item item(int64_t index) const {
    const int64_t kv_heads = shape.num_kv_heads, group = shape.num_heads / kv_heads;
    const int64_t i = index / kv_heads, head = index % kv_heads;
    const int64_t key = shape.key_column(head), value = shape.value_column(head);
    return {trunks[i], trunks[i + 1], key, value, head * group, (head + 1) * group};
  }
  Sequence sequence(const Item& item, int64_t s) const {
    const int64_t common = s == item.sequence ? 0 : shared[s];
    return {starts[item.sequence], common, starts[s], common + starts[s + 1] - starts[s]};
  }
  /// Copies the rows of a head from the sequence's token `begin` on, (length - begin, D), out of
  /// the packed tensor, rotated and times `factor`.
  template <class T>
  void gather_rotated(const T* from, const Sequence& of, int64_t begin, float factor, T* to) const {
    for (int64_t t = begin; t < of.length; ++t, to += shape.head_dim)
      vec::rotate(from + of.row(t) * width, cos, sin, t, shape.head_dim, factor, to);
  }
  /// The same for values, which do not rotate.
  template <class T>
  void gather(const T* from, const Sequence& of, T* to) const {
    for (int64_t t = 0; t < of.length; ++t, to += shape.head_dim)
      std::copy_n(from + of.row(t) * width, shape.head_dim, to);
  }
  /// Writes the gradient of a sequence's own rows, rotated back.   @param from (length - shared, D)
  template <class T>
  void scatter_unrotated(const float* from, const Sequence& of, float factor, T* to) const {
    for (int64_t t = of.shared; t < of.length; ++t, from += shape.head_dim)
      vec::rotate<-1>(from, cos, sin, t, shape.head_dim, factor, to + of.row(t) * width);
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
                        const AttentionShape& shape, const std::vector<int64_t>& shared) {
    const Tensor qkv = input.contiguous();
    const Layout at{shape, starts, shared, cos.data_ptr<float>(), sin.data_ptr<float>()};
    const int64_t dim = shape.head_dim, out_width = at.out_width;
    Tensor output = torch::empty({qkv.size(0), out_width}, qkv.options());
    Tensor log_sum_exp = torch::empty({qkv.size(0), shape.num_heads}, torch::kFloat32);
    const T* from = qkv.data_ptr<T>();
    T* to = output.data_ptr<T>();
    float* lse = log_sum_exp.data_ptr<float>();

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t index = 0; index < at.items(); ++index) {
      const Item item = at.item(index);
      for (int64_t s = item.sequence; s < item.sequences_end; ++s) {
        thread_local Scratch memory[7];
        const Sequence of = at.sequence(item, s);
        const int64_t length = of.length, padded = vec::round_up(length);
        T* rotated = memory[0].get<T>(length * dim);  // (T, D): the keys, then the queries
        at.gather_rotated(from + item.key_column, of, 0, 1.0F, rotated);
        const auto keys_t = transpose(vec::left(rotated, dim), length, dim / kPack,
                                      memory[1].get<F>(dim * padded), padded);
        T* gathered = memory[2].get<T>(length * dim);
        at.gather(from + item.value_column, of, gathered);
        const auto values =
            vec::right(gathered, dim, length, dim, memory[3].get<F>((length + 1) * dim));
        for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
          at.gather_rotated(from + head * dim, of, of.shared, at.scale, rotated);
          for (int64_t i = of.shared; i < length; i += kTileRows) {
            // Causal: query rows i .. i + tile see the first `seen` keys.
            const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
            const int64_t stride = vec::round_up(seen);
            float* scores = memory[4].get(tile * stride);  // (tile, seen)
            vec::matmul(tile, seen, dim / kPack, vec::left(rotated + (i - of.shared) * dim, dim),
                        keys_t, scores, stride);
            causal_softmax(scores, tile, i, stride, lse + of.row(i) * shape.num_heads + head,
                           shape.num_heads);
            const T* probs = narrowed(scores, tile * stride, memory[5].get<T>(tile * stride));
            float* mixed = memory[6].get(tile * dim);  // (tile, D)
            vec::matmul(tile, dim, (seen + kPack - 1) / kPack, vec::left(probs, stride), values,
                        mixed, dim);
            for (int64_t t = 0; t < tile; ++t)
              vec::convert(mixed + t * dim, dim, to + of.row(i + t) * out_width + head * dim);
          }
        }
      }
    }
    context->save_for_backward({qkv, log_sum_exp, cos, sin});
    context->saved_data["starts"] = starts;
    context->saved_data["shared"] = shared;
    context->saved_data["shape"] =
        std::vector<int64_t>{shape.num_heads, shape.num_kv_heads, shape.head_dim};
    return output;
  }

  /// With P = exp(S - log_sum_exp) computed anew:
  ///   dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(P dP)),  dQ = dS K,  dK = dS^T Q
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto starts = context->saved_data["starts"].toIntVector(),
               shared = context->saved_data["shared"].toIntVector(),
               dims = context->saved_data["shape"].toIntVector();
    const AttentionShape shape{dims[0], dims[1], dims[2]};
    const Tensor qkv = saved[0], upstream = grads[0].contiguous();
    const Layout at{shape, starts, shared, saved[2].data_ptr<float>(), saved[3].data_ptr<float>()};
    const int64_t dim = shape.head_dim, width = at.width, out_width = at.out_width;
    Tensor gradient = torch::empty_like(qkv);
    const T *from = qkv.data_ptr<T>(), *up = upstream.data_ptr<T>();
    const float* lse = saved[1].data_ptr<float>();
    T* to = gradient.data_ptr<T>();

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t index = 0; index < at.items(); ++index) {
      const Item item = at.item(index);
      thread_local Scratch memory[17];
      // The branches come first: what they see of the trunk adds to its gradient.
      const int64_t trunk_size = at.sequence(item, item.sequence).length * dim;
      float *trunk_keys = memory[3].get(trunk_size, /*zeroed=*/true),
            *trunk_values = memory[4].get(trunk_size, /*zeroed=*/true);
      for (int64_t s = item.sequences_end - 1; s >= item.sequence; --s) {
        const Sequence of = at.sequence(item, s);
        const int64_t length = of.length, padded = vec::round_up(length), size = length * dim;
        T *rotated_keys = memory[0].get<T>(size), *queries = memory[1].get<T>(size);
        float *grad_queries = memory[2].get(size), *grad_keys = trunk_keys,
              *grad_values = trunk_values;
        if (s > item.sequence) {
          grad_keys = memory[13].get(size, /*zeroed=*/true);
          grad_values = memory[14].get(size, /*zeroed=*/true);
        }
        at.gather_rotated(from + item.key_column, of, 0, 1.0F, rotated_keys);
        const auto keys =
            vec::right(rotated_keys, dim, length, dim, memory[5].get<F>((length + 1) * dim));
        const auto keys_t = transpose(vec::left(rotated_keys, dim), length, dim / kPack,
                                      memory[6].get<F>(dim * padded), padded);
        T* values = memory[15].get<T>(size);
        at.gather(from + item.value_column, of, values);
        const auto values_t = transpose(vec::left(values, dim), length, dim / kPack,
                                        memory[7].get<F>(dim * padded), padded);
        for (int64_t head = item.query_head; head < item.query_heads_end; ++head) {
          at.gather_rotated(from + head * dim, of, of.shared, at.scale, queries);
          for (int64_t i = of.shared; i < length; i += kTileRows) {
            const int64_t tile = std::min(kTileRows, length - i), seen = i + tile;
            const int64_t stride = vec::round_up(seen), packs = (tile + kPack - 1) / kPack;
            const int64_t own = (i - of.shared) * dim;          // where the tile's queries stand
            float* probs = memory[8].get(tile * stride);        // (tile, seen): S, then P
            float* grad_scores = memory[9].get(tile * stride);  // (tile, seen): dP, then dS
            const T* query = queries + own;                     // (tile, D)
            const T* grad_out = up + of.row(i) * out_width + head * dim;  // (tile, D)
            vec::matmul(tile, seen, dim / kPack, vec::left(query, dim), keys_t, probs, stride);
            vec::matmul(tile, seen, dim / kPack, vec::left(grad_out, out_width), values_t,
                        grad_scores, stride);
            causal_softmax_backward(probs, grad_scores, tile, i, stride,
                                    lse + of.row(i) * shape.num_heads + head, shape.num_heads);
            const T* narrow =
                narrowed(grad_scores, tile * stride, memory[10].get<T>(tile * stride));
            vec::matmul(tile, dim, (seen + kPack - 1) / kPack, vec::left(narrow, stride), keys,
                        grad_queries + own, dim);
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
          at.scatter_unrotated(grad_queries, of, at.scale, to + head * dim);
        }
        for (int64_t j = 0; j < of.shared * dim; ++j) {
          trunk_keys[j] += grad_keys[j];
          trunk_values[j] += grad_values[j];
        }
        const int64_t own = of.shared * dim;
        at.scatter_unrotated(grad_keys + own, of, 1.0F, to + item.key_column);
        for (int64_t t = of.shared; t < length; ++t)
          vec::convert(grad_values + t * dim, dim, to + of.row(t) * width + item.value_column);
      }
    }
    return {gradient, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

bool attention_shares(torch::Device device, const AttentionShape& shape) {
  return vec::applies(torch::device(device).dtype(torch::kFloat32), shape.head_dim);
}

Tensor packed_attention(const Tensor& qkv, const Rope& rope, const std::vector<int64_t>& starts,
                        const AttentionShape& shape, const std::vector<int64_t>& shared) {
  TORCH_CHECK(qkv.dim() == 2 && qkv.size(1) == shape.qkv_width(), "packed_attention: qkv is ",
              qkv.sizes(), ", want (N, ", shape.qkv_width(), ")");
  TORCH_CHECK(starts.size() >= 2 && starts.front() == 0 && starts.back() == qkv.size(0),
              "packed_attention: starts must run from 0 to N = ", qkv.size(0), ", got ", starts);
  TORCH_CHECK(shared.empty() || shared.size() + 1 == starts.size(),
              "packed_attention: ", shared.size(),
              " numbers of shared tokens, want one for each sequence");
  const bool fused = vec::applies(qkv.options(), shape.head_dim);
  int64_t trunk = 0;  // its length
  for (size_t s = 0; s < shared.size(); ++s) {
    if (shared[s] == 0) trunk = starts[s + 1] - starts[s];
    TORCH_CHECK(shared[s] <= (fused ? trunk : 0), "packed_attention: sequence ", s, " shares ",
                shared[s], " tokens; possible are ", fused ? trunk : 0);
  }
  if (!fused) return packed_attention_reference(qkv, rope, starts, shape);
  return vec::dispatch(qkv.options(), [&]<class T>(T) {
    return PackedAttention<T>::apply(qkv, rope.cos, rope.sin, starts, shape, shared);
  });
}

}  // namespace tiny_zero
