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

  using F = vec::Factor<T>;
  constexpr int64_t kPack = vec::kPack<T>;
  at::parallel_for(0, batch * kv_heads, /*grain_size=*/8, [&](int64_t begin, int64_t end) {
    const int64_t padded = vec::round_up(length);
    std::vector<float> scores(heads_per_kv * padded), mixed(heads_per_kv * dim);
    std::vector<T> probs(scores.size()), queries(mixed.size()), rotated(dim);
    std::vector<float> totals(heads_per_kv);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / kv_heads, kv_head = item % kv_heads, position = position_of[b];
      const int64_t seen = position + 1;
      const T* token = from + b * shape.qkv_width();
      T* keys = all_keys + offset(item);      // (capacity / 16, D / pack, 16, pack)
      T* values = all_values + offset(item);  // (capacity / pack, D, pack)
      if (item + 1 < end) {
        // The last step left this memory cold, so each item fetches what the next one reads.
        const int64_t size = vec::round_up(position_of[(item + 1) / kv_heads] + 1) * dim;
        prefetch(all_keys + offset(item + 1), size);
        prefetch(all_values + offset(item + 1), size);
      }
      vec::rotate(token + shape.key_column(kv_head), cos, sin, position, dim, 1.0F, rotated.data());
      const T* value = token + shape.value_column(kv_head);
      T* key = keys + position / kLanes * kLanes * dim + position % kLanes * kPack;
      T* slot = values + position / kPack * kPack * dim + position % kPack;
      for (int64_t d = 0; d < dim; ++d) {
        key[d / kPack * kPack * kLanes + d % kPack] = rotated[d];
        slot[d * kPack] = value[d];
        // The other half of a pair waits for the next position; until then it must not be nan.
        if (kPack == 2 && position % 2 == 0) slot[d * kPack + 1] = T(0);
      }

      for (int64_t h = 0; h < heads_per_kv; ++h) {
        vec::rotate(token + (kv_head * heads_per_kv + h) * dim, cos, sin, position, dim, scale,
                    queries.data() + h * dim);
      }
      for (int64_t t = 0; t < seen; t += kLanes) {
        const vec::Matrix<F> block{reinterpret_cast<const F*>(keys + t * dim), kLanes};
        vec::matmul(heads_per_kv, kLanes, dim / kPack, vec::left(queries.data(), dim), block,
                    scores.data() + t, padded);
      }
      for (int64_t h = 0; h < heads_per_kv; ++h) {
        float* row = scores.data() + h * padded;
        totals[h] = vec::exponentiate(row, seen, vec::round_up(seen)).sum;
        vec::convert(row, vec::round_up(seen), probs.data() + h * padded);
      }
      const vec::Matrix<F> rows_of_values{reinterpret_cast<const F*>(values), dim};
      vec::matmul(heads_per_kv, dim, (seen + kPack - 1) / kPack, vec::left(probs.data(), padded),
                  rows_of_values, mixed.data(), dim);
      for (int64_t h = 0; h < heads_per_kv; ++h) {
        T* out = to + (b * shape.num_heads + kv_head * heads_per_kv + h) * dim;
        for (int64_t d = 0; d < dim; d += kLanes)
          vec::store(out + d, vec::load(mixed.data() + h * dim + d) / totals[h]);
      }
    }
  });
  return output;
}

}  // namespace

KvCache::KvCache(int64_t rows, int64_t capacity, const AttentionShape& shape,
                 const torch::TensorOptions& options) {
  const int64_t padded = vec::round_up(capacity);
  const bool fused = vec::applies(options, shape.head_dim);
  const int64_t block = fused ? kLanes : padded;
  const int64_t pack = fused && options.dtype() == torch::kBFloat16 ? vec::kPack<c10::BFloat16> : 1;
  // Zeroed: the reference implementation reads unwritten values with weight 0, and 0 * nan is nan.
  const int64_t heads = shape.num_kv_heads, dim = shape.head_dim;
  keys = torch::empty({rows, heads, padded / block, dim / pack, block, pack}, options);
  values = torch::empty({rows, heads, padded / pack, dim, pack}, options);
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
