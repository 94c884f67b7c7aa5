// Attention of one new token per row over the keys and values cached for that row. Sampling spends
// its time here, waiting for memory.

#include <ATen/Parallel.h>
#include <sys/mman.h>

#include <cmath>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/kernels/vec.h"

namespace tiny_zero {
namespace {

using torch::Tensor;
using vec::f32x16;
using vec::kLanes;

/// Sampling jumps through the whole cache at every token. Pages of 2 MiB save most of the address
/// translations.
void request_huge_pages(const Tensor& tensor) {
  constexpr uintptr_t kPage = 4096;
  auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr()), end = begin + tensor.nbytes();
  begin = (begin + kPage - 1) / kPage * kPage;
  end = end / kPage * kPage;
  // A hint: if the system declines, nothing is lost.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

/// Starts loading `size` numbers into the second-level cache.
template <class T>
void prefetch(const T* from, int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < size; i += kLine)
    __builtin_prefetch(from + i, /*write=*/0, /*locality=*/2);
}

/// scores[t] = query . key_t for t in [0, length); the sixteen positions of a block at once.
template <class T>
void score_keys(const float* query, const T* keys, int64_t length, int64_t dim, float* scores) {
  for (int64_t t = 0; t < length; t += kLanes, keys += dim * kLanes) {
    f32x16 sums[4] = {};  // four chains hide the latency of the multiply-add
    for (int64_t d = 0; d < dim; d += 4) {
      for (int64_t c = 0; c < 4; ++c) sums[c] += query[d + c] * vec::load(keys + (d + c) * kLanes);
    }
    vec::store(scores + t, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

/// out = sum_t weights[t] values[t] / total.
template <class T>
void mix_values(const float* weights, const T* values, int64_t length, int64_t dim, float total,
                T* out) {
  for (int64_t d = 0; d < dim; d += kLanes) {
    f32x16 sums[4] = {};
    int64_t t = 0;
    for (; t + 4 <= length; t += 4) {
      for (int64_t c = 0; c < 4; ++c)
        sums[c] += weights[t + c] * vec::load(values + (t + c) * dim + d);
    }
    for (; t < length; ++t) sums[0] += weights[t] * vec::load(values + t * dim + d);
    vec::store(out + d, ((sums[0] + sums[1]) + (sums[2] + sums[3])) / total);
  }
}

/// cached_attention() for tensors of type T.
template <class T>
Tensor attend(KvCache& cache, const Tensor& qkv, const Rope& rope, const AttentionShape& shape,
              const Tensor& rows, const Tensor& positions, int64_t length) {
  const int64_t batch = qkv.size(0), dim = shape.head_dim, kv_heads = shape.num_kv_heads;
  const int64_t heads_per_kv = shape.num_heads / kv_heads, head_size = cache.capacity() * dim;
  Tensor output = torch::empty({batch, shape.num_heads * dim}, qkv.options());
  const T* from = qkv.data_ptr<T>();
  const float *cos = rope.cos.data_ptr<float>(), *sin = rope.sin.data_ptr<float>();
  const int64_t *row_of = rows.data_ptr<int64_t>(), *position_of = positions.data_ptr<int64_t>();
  T *all_keys = cache.keys.data_ptr<T>(), *all_values = cache.values.data_ptr<T>();
  T* to = output.data_ptr<T>();
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  // One item is one key-value head of one row; its keys and its values start here in the cache.
  const auto offset = [&](int64_t item) {
    return (row_of[item / kv_heads] * kv_heads + item % kv_heads) * head_size;
  };

  at::parallel_for(0, batch * kv_heads, /*grain_size=*/8, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(vec::round_up(length)), rotated(dim);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / kv_heads, kv_head = item % kv_heads, position = position_of[b];
      const T* token = from + b * shape.qkv_width();
      T* keys = all_keys + offset(item);      // (capacity / 16, D, 16)
      T* values = all_values + offset(item);  // (capacity, D)
      if (item + 1 < end) {
        // The last step left this memory cold, so each item fetches what the next one reads.
        const int64_t size = vec::round_up(position_of[(item + 1) / kv_heads] + 1) * dim;
        prefetch(all_keys + offset(item + 1), size);
        prefetch(all_values + offset(item + 1), size);
      }
      vec::rotate(token + shape.key_column(kv_head), cos, sin, position, dim, 1.0F, rotated.data());
      T* key = keys + position / kLanes * kLanes * dim + position % kLanes;
      for (int64_t d = 0; d < dim; ++d) vec::store(key + d * kLanes, rotated[d]);
      std::copy_n(token + shape.value_column(kv_head), dim, values + position * dim);

      for (int64_t head = kv_head * heads_per_kv; head < (kv_head + 1) * heads_per_kv; ++head) {
        vec::rotate(token + head * dim, cos, sin, position, dim, scale, rotated.data());
        score_keys(rotated.data(), keys, position + 1, dim, scores.data());
        const float total =
            vec::exponentiate(scores.data(), position + 1, vec::round_up(position + 1)).sum;
        mix_values(scores.data(), values, position + 1, dim, total,
                   to + (b * shape.num_heads + head) * dim);
      }
    }
  });
  return output;
}

}  // namespace

KvCache::KvCache(int64_t rows, int64_t capacity, const AttentionShape& shape,
                 const torch::TensorOptions& options) {
  const int64_t padded = vec::round_up(capacity);
  const int64_t block = vec::applies(options, shape.head_dim) ? kLanes : padded;
  // Zeroed: the reference implementation reads unwritten values with weight 0, and 0 * nan is nan.
  keys = torch::empty({rows, shape.num_kv_heads, padded / block, shape.head_dim, block}, options);
  values = torch::empty({rows, shape.num_kv_heads, padded, shape.head_dim}, options);
  for (Tensor* tensor : {&keys, &values}) {
    if (options.device().is_cpu()) request_huge_pages(*tensor);
    tensor->zero_();
  }
}

Tensor cached_attention(KvCache& cache, const Tensor& qkv, const Rope& rope,
                        const AttentionShape& shape, const Tensor& rows, const Tensor& positions,
                        int64_t length) {
  TORCH_CHECK(qkv.dim() == 2 && qkv.size(1) == shape.qkv_width() && qkv.is_contiguous(),
              "cached_attention: want contiguous (B, ", shape.qkv_width(), "), got ", qkv.sizes());
  TORCH_CHECK(rows.size(0) == qkv.size(0) && positions.size(0) == qkv.size(0),
              "cached_attention: want one row and one position per token, got ", rows.sizes(),
              " and ", positions.sizes(), " for ", qkv.size(0), " tokens");
  if (!vec::applies(qkv.options(), shape.head_dim))
    return cached_attention_reference(cache, qkv, rope, shape, rows, positions, length);

  return vec::dispatch(qkv.options(), [&]<class T>(T) {
    return attend<T>(cache, qkv, rope, shape, rows, positions, length);
  });
}

}  // namespace tiny_zero
