// Log-probabilities of given tokens under the language-model head, without the (N, V) logits: a
// chunk of rows at a time, computed once more in the backward pass.

#include "tiny_zero/kernels/kernels.h"

namespace tiny_zero {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr int64_t kChunkElements = 1 << 25;  // logits that exist at once: 128 MiB in float32

/// Calls body(first row, number of rows) for each chunk.
template <class Body>
void for_chunks(int64_t rows, int64_t vocab_size, const Body& body) {
  const int64_t chunk = std::max<int64_t>(1, kChunkElements / vocab_size);
  for (int64_t begin = 0; begin < rows; begin += chunk) body(begin, std::min(chunk, rows - begin));
}

/// log softmax(hidden weight^T / temperature) of one chunk, (count, vocab_size) float32.
Tensor log_softmax_of(const Tensor& hidden, const Tensor& weight, double temperature,
                      int64_t vocab_size) {
  return torch::log_softmax(head_logits(hidden, weight, vocab_size).div_(temperature), /*dim=*/-1);
}

struct HeadLogProbs : torch::autograd::Function<HeadLogProbs> {
  static tensor_list forward(AutogradContext* context, const Tensor& hidden, const Tensor& weight,
                             const Tensor& targets, double temperature, int64_t vocab_size,
                             bool with_entropy) {
    context->set_materialize_grads(false);  // an output that the loss leaves out costs nothing
    const int64_t rows = hidden.size(0);
    Tensor log_probs = torch::empty({rows}, hidden.options().dtype(torch::kFloat32));
    Tensor entropies = torch::empty({with_entropy ? rows : 0}, log_probs.options());
    for_chunks(rows, vocab_size, [&](int64_t begin, int64_t count) {
      const Tensor chunk = hidden.narrow(0, begin, count);
      const Tensor target = targets.narrow(0, begin, count).unsqueeze(1);  // (count, 1)
      const Tensor log_p = log_softmax_of(chunk, weight, temperature, vocab_size);
      log_probs.narrow(0, begin, count).copy_(log_p.gather(1, target).squeeze(1));
      if (with_entropy) entropies.narrow(0, begin, count).copy_(-(log_p.exp() * log_p).sum(-1));
    });
    context->save_for_backward({hidden, weight, targets});
    context->saved_data["temperature"] = temperature;
    context->saved_data["vocab_size"] = vocab_size;
    return {log_probs, entropies};
  }

  /// With z the logits over the temperature, p = softmax(z) and H its entropy:
  ///   d log p_y / dz = onehot(y) - p,   dH / dz = -p (log p + H)
  static tensor_list backward(AutogradContext* context, const tensor_list& grads) {
    const auto saved = context->get_saved_variables();
    const Tensor hidden = saved[0], weight = saved[1], targets = saved[2];
    const double temperature = context->saved_data["temperature"].toDouble();
    const int64_t rows = hidden.size(0), vocab_size = context->saved_data["vocab_size"].toInt();
    const Tensor used_weight = weight.narrow(0, 0, vocab_size);
    Tensor grad_hidden = torch::empty_like(hidden),
           grad_weight = torch::zeros_like(weight, torch::kFloat32);
    for_chunks(rows, vocab_size, [&](int64_t begin, int64_t count) {
      const Tensor chunk = hidden.narrow(0, begin, count);
      const Tensor target = targets.narrow(0, begin, count).unsqueeze(1);  // (count, 1)
      const Tensor log_p = log_softmax_of(chunk, weight, temperature, vocab_size);
      const Tensor p = log_p.exp();
      Tensor slope = torch::zeros_like(p);  // (count, vocab_size): gradient of the logits
      if (grads[0].defined()) {
        const Tensor g = grads[0].narrow(0, begin, count).unsqueeze(1);
        slope.sub_(p * g).scatter_add_(1, target, g);
      }
      if (grads[1].defined() && grads[1].numel() > 0) {
        const Tensor entropy = -(p * log_p).sum(/*dim=*/-1, /*keepdim=*/true);
        slope.sub_(p * (log_p + entropy) * grads[1].narrow(0, begin, count).unsqueeze(1));
      }
      slope = slope.div_(temperature).to(hidden.scalar_type());
      grad_hidden.narrow(0, begin, count).copy_(slope.mm(used_weight));
      grad_weight.narrow(0, 0, vocab_size).add_(slope.t().mm(chunk));
    });
    return {grad_hidden, grad_weight.to(weight.scalar_type()), Tensor(), Tensor(), Tensor(),
            Tensor()};
  }
};

}  // namespace

TokenLogProbs token_log_probs(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                              double temperature, int64_t vocab_size, bool with_entropy) {
  TORCH_CHECK(hidden.dim() == 2 && targets.dim() == 1 && hidden.size(0) == targets.size(0) &&
                  hidden.size(1) == weight.size(1) && vocab_size <= weight.size(0) &&
                  temperature > 0,
              "token_log_probs: want hidden (N, d), weight (V' >= ", vocab_size,
              ", d), targets (N,), temperature > 0, got ", hidden.sizes(), ", ", weight.sizes(),
              ", ", targets.sizes(), ", ", temperature);
  const auto results =
      HeadLogProbs::apply(hidden, weight, targets, temperature, vocab_size, with_entropy);
  return {results[0], results[1]};
}

}  // namespace tiny_zero
