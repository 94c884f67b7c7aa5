// RMSNorm and SwiGLU: the forward and the backward pass each read every row once from memory.

#include <ATen/Parallel.h>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/kernels/vec.h"

namespace tiny_zero {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using vec::f32x16;
using vec::kLanes;

constexpr int64_t kGrainRows = 64;  // fewer rows are not worth another thread
// Partial sums of a weight gradient: a fixed number, so its bytes do not depend on the threads.
constexpr int64_t kWeightChunks = 8;

template <class T>
struct RmsNorm : torch::autograd::Function<RmsNorm<T>> {
  static Tensor forward(AutogradContext* context, const Tensor& input, const Tensor& weight,
                        double eps) {
    const Tensor x = input.contiguous();  // (N, d)
    const int64_t rows = x.size(0), width = x.size(1);
    Tensor y = torch::empty_like(x), inverse_rms = torch::empty({rows}, torch::kFloat32);
    const T *from = x.data_ptr<T>(), *scale = weight.data_ptr<T>();
    T* to = y.data_ptr<T>();
    float* inverse = inverse_rms.data_ptr<float>();
    at::parallel_for(0, rows, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = from + i * width;
        f32x16 squares{};
        for (int64_t j = 0; j < width; j += kLanes)
          squares += vec::load(row + j) * vec::load(row + j);
        inverse[i] = 1.0F / std::sqrt(vec::sum(squares) / static_cast<float>(width) +
                                      static_cast<float>(eps));
        for (int64_t j = 0; j < width; j += kLanes) {
          vec::store(to + i * width + j, vec::load(row + j) * inverse[i] * vec::load(scale + j));
        }
      }
    });
    context->save_for_backward({x, weight, inverse_rms});
    return y;
  }

  /// With n = x / rms:  dx = (w dy - n mean(n w dy)) / rms,  dw = sum of n dy over the rows.
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const auto saved = context->get_saved_variables();
    const Tensor x = saved[0], weight = saved[1], dy = grads[0].contiguous();
    const int64_t rows = x.size(0), width = x.size(1);
    Tensor dx = torch::empty_like(x),
           partial = torch::zeros({kWeightChunks, width}, torch::kFloat32);
    const T *from = x.data_ptr<T>(), *scale = weight.data_ptr<T>(), *upstream = dy.data_ptr<T>();
    const float* inverse = saved[2].data_ptr<float>();
    T* to = dx.data_ptr<T>();
    float* sums = partial.data_ptr<float>();
    const int64_t chunk_rows = (rows + kWeightChunks - 1) / kWeightChunks;
    at::parallel_for(0, kWeightChunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * chunk_rows; i < std::min(rows, end * chunk_rows); ++i) {
        const T *row = from + i * width, *g = upstream + i * width;
        float* weight_sum = sums + i / chunk_rows * width;  // of this row's chunk
        f32x16 dot{};
        for (int64_t j = 0; j < width; j += kLanes) {
          const f32x16 normed_g = vec::load(row + j) * inverse[i] * vec::load(g + j);
          vec::store(weight_sum + j, vec::load(weight_sum + j) + normed_g);
          dot += normed_g * vec::load(scale + j);
        }
        const float mean = vec::sum(dot) / static_cast<float>(width);
        for (int64_t j = 0; j < width; j += kLanes) {
          const f32x16 normed = vec::load(row + j) * inverse[i];
          vec::store(to + i * width + j,
                     (vec::load(g + j) * vec::load(scale + j) - normed * mean) * inverse[i]);
        }
      }
    });
    return {dx, partial.sum(0).to(weight.scalar_type()), Tensor()};
  }
};

template <class T>
struct SwiGlu : torch::autograd::Function<SwiGlu<T>> {
  static Tensor forward(AutogradContext* context, const Tensor& input) {
    const Tensor gate_up = input.contiguous();
    const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    Tensor y = torch::empty({rows, width}, gate_up.options());
    const T* from = gate_up.data_ptr<T>();
    T* to = y.data_ptr<T>();
    at::parallel_for(0, rows, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < width; j += kLanes) {
          const f32x16 gate = vec::load(from + 2 * i * width + j),
                       up = vec::load(from + (2 * i + 1) * width + j);
          vec::store(to + i * width + j, gate / (1.0F + vec::exp(-gate)) * up);
        }
      }
    });
    context->save_for_backward({gate_up});
    return y;
  }

  /// With s = sigmoid(gate):  dgate = dy up s (1 + gate (1 - s)),  dup = dy gate s.
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const Tensor gate_up = context->get_saved_variables()[0], dy = grads[0].contiguous();
    const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
    Tensor dx = torch::empty_like(gate_up);
    const T *from = gate_up.data_ptr<T>(), *upstream = dy.data_ptr<T>();
    T* to = dx.data_ptr<T>();
    at::parallel_for(0, rows, kGrainRows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t gate_at = 2 * i * width, up_at = gate_at + width;
        for (int64_t j = 0; j < width; j += kLanes) {
          const f32x16 gate = vec::load(from + gate_at + j),
                       g = vec::load(upstream + i * width + j);
          const f32x16 sigmoid = 1.0F / (1.0F + vec::exp(-gate));
          const f32x16 slope = sigmoid * (1.0F + gate * (1.0F - sigmoid));
          vec::store(to + gate_at + j, g * vec::load(from + up_at + j) * slope);
          vec::store(to + up_at + j, g * gate * sigmoid);
        }
      }
    });
    return {dx};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  TORCH_CHECK(x.dim() == 2 && weight.dim() == 1 && x.size(1) == weight.size(0),
              "rms_norm: want (N, d) and (d,), got ", x.sizes(), " and ", weight.sizes());
  if (!vec::applies(x.options(), x.size(1))) return rms_norm_reference(x, weight, eps);
  return vec::dispatch(x.options(), [&]<class T>(T) { return RmsNorm<T>::apply(x, weight, eps); });
}

Tensor swiglu(const Tensor& gate_up) {
  TORCH_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0, "swiglu: want (N, 2f), got ",
              gate_up.sizes());
  if (!vec::applies(gate_up.options(), gate_up.size(1) / 2)) return swiglu_reference(gate_up);
  return vec::dispatch(gate_up.options(), [&]<class T>(T) { return SwiGlu<T>::apply(gate_up); });
}

}  // namespace tiny_zero
