#include "tiny_zero/methods/prime.h"

#include "tiny_zero/advantage.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

using torch::Tensor;

Config prm_config(const Config& config) {
  Config own = config;
  own.learning_rate = config.prime_learning_rate;
  if (config.learning_rate > 0) {  // a schedule ends at the same fraction of the rate
    own.final_learning_rate *= config.prime_learning_rate / config.learning_rate;
  }
  own.max_grad_norm = config.prime_max_grad_norm;
  own.weight_decay = 0;
  own.epochs = 1;
  own.aggregation = Aggregation::sequence;
  return own;
}

Tensor implicit_rewards(const Tensor& log_probs, const Tensor& ref_log_probs, double beta) {
  TORCH_CHECK(log_probs.sizes() == ref_log_probs.sizes(), "implicit_rewards: log_probs ",
              log_probs.sizes(), " and ref_log_probs ", ref_log_probs.sizes(), " differ in shape");
  return beta * (log_probs - ref_log_probs);
}

Tensor right_responses(const Rollout& rollout) {
  std::vector<float> right;
  for (const Grade& grade : rollout.grades) right.push_back(grade.correct ? 1.0F : 0.0F);
  return torch::tensor(right);
}

Tensor prm_loss(const Tensor& sums, const Tensor& right) {
  return at::binary_cross_entropy_with_logits(sums, right, /*weight=*/{}, /*pos_weight=*/{},
                                              at::Reduction::None);
}

Tensor process_rewards(const Tensor& rewards, const Tensor& mask) {
  const Tensor last = mask.sum(/*dim=*/1, /*keepdim=*/true) - 1;
  const Tensor inner = torch::where(mask, rewards, 0.0).scatter(1, last, 0.0);
  return inner / (sum_to_come(inner).abs().max() + 1e-6);
}

Tensor prime_advantages(const Tensor& process, const Tensor& outcomes, const Tensor& mask,
                        const Tensor& log_ratio, const Config& config) {
  const int64_t others = config.group_size - 1;
  const Tensor means = (process.sum(/*dim=*/1) / mask.sum(/*dim=*/1)).view({-1, others + 1});
  const Tensor baseline = (means.sum(/*dim=*/1, /*keepdim=*/true) - means).view({-1, 1}) / others;
  const Tensor outcome =
      group_advantages(outcomes, config.group_size, GroupStd::none, 0, Baseline::leave_one_out);
  const Tensor per_token =
      config.prime_process_weight * (process - baseline) * mask +
      token_rewards(config.prime_outcome_weight * outcome, mask, log_ratio, config.kl_coef);
  return sum_to_come(per_token) * mask;
}

}  // namespace tiny_zero
