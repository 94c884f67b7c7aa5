#include "tiny_zero/advantage.h"

#include "tiny_zero/loss.h"
#include "tiny_zero/methods/prime.h"
#include "tiny_zero/methods/process_supervision.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

using torch::Tensor;

Tensor token_rewards(const Tensor& rewards, const Tensor& mask, const Tensor& log_ratio,
                     double kl_coef) {
  // Every response has a token.
  const Tensor last = mask.sum(/*dim=*/1, /*keepdim=*/true) - 1;  // (B, 1)
  const Tensor result =
      torch::zeros(mask.sizes(), rewards.options()).scatter_(1, last, rewards.unsqueeze(1));
  return log_ratio.defined() ? result - kl_coef * torch::where(mask, log_ratio, 0.0) : result;
}

Tensor sum_to_come(const Tensor& x) { return x.flip(1).cumsum(1).flip(1); }

Tensor group_advantages(const Tensor& rewards, int64_t group_size, GroupStd deviation,
                        double epsilon, Baseline baseline) {
  TORCH_CHECK(rewards.dim() == 1 && rewards.size(0) % group_size == 0, "group_advantages: rewards ",
              rewards.sizes(), " must be (B,) with B a multiple of the group size ", group_size);
  const Tensor groups = rewards.view({-1, group_size});
  // Exactly equal rewards need not have an exact mean in floating point: 0.1 + 0.1 + 0.1 is not
  // 0.3.
  const Tensor equal = (groups == groups.select(1, 0).unsqueeze(1)).all(1, /*keepdim=*/true);
  const Tensor centred = torch::where(equal, 0.0, groups - groups.mean(1, /*keepdim=*/true));
  Tensor result = centred;
  const int64_t others = std::max<int64_t>(1, group_size - 1);
  if (baseline == Baseline::leave_one_out)  // r_i - mean of the others, rearranged
    result = centred * (static_cast<double>(group_size) / static_cast<double>(others));
  if (deviation != GroupStd::none) {
    const int64_t n = deviation == GroupStd::sample ? others : group_size;
    result = result / ((centred.square().sum(/*dim=*/1, /*keepdim=*/true) / n).sqrt() + epsilon);
  }
  // With epsilon 0 it may be 0 / 0.
  return torch::where(centred == 0, 0.0, result).to(torch::kFloat32).view({-1});
}

Gae generalized_advantages(const Tensor& rewards, const Tensor& values, const Tensor& mask,
                           double gamma, double lambda) {
  TORCH_CHECK(rewards.sizes() == values.sizes() && rewards.sizes() == mask.sizes(),
              "generalized_advantages: rewards ", rewards.sizes(), ", values ", values.sizes(),
              " and mask ", mask.sizes(), " must have one shape (B, T)");
  const int64_t length = rewards.size(1);
  const Tensor known = torch::where(mask, values, 0.0);
  Tensor advantages = torch::zeros_like(rewards), next = torch::zeros_like(rewards.select(1, 0));
  for (int64_t t = length - 1; t >= 0; --t) {
    const Tensor next_value = t + 1 < length ? known.select(1, t + 1) : torch::zeros_like(next);
    const Tensor delta = rewards.select(1, t) + gamma * next_value - known.select(1, t);
    next = torch::where(mask.select(1, t), delta + gamma * lambda * next, 0.0);
    advantages.select(1, t).copy_(next);
  }
  return {advantages, torch::where(mask, advantages + known, 0.0)};
}

Tensor whiten(const Tensor& x, const Tensor& mask) {
  const Tensor chosen = x.masked_select(mask).to(torch::kFloat64);
  const Tensor mean = chosen.mean(), deviation = (chosen - mean).square().mean().sqrt();
  return torch::where(mask, (x - mean) / (deviation + 1e-8), 0.0).to(x.scalar_type());
}

double explained_variance(const Tensor& values, const Tensor& returns, const Tensor& mask) {
  const auto variance = [&](const Tensor& x) {
    const Tensor chosen = x.masked_select(mask).to(torch::kFloat64);
    return (chosen - chosen.mean()).square().mean().item<double>();
  };
  // Equal returns differ by the rounding of float32, 1e-7 of their size.
  const double total = variance(returns),
               size = returns.masked_select(mask).abs().max().item<double>();
  return total > 1e-10 * size * size ? 1 - variance(returns - values) / total : 0;
}

Advantages estimate_advantages(const Rollout& rollout, const Judgement& judgement,
                               const Config& config) {
  const auto& [rewards, loss_mask, ref_log_probs, values, process_rewards, old_log_probs, steps] =
      judgement;
  const Tensor& mask = rollout.mask;
  Tensor log_ratio;                             // (B, T), undefined without KL in the reward
  Tensor penalty = torch::zeros(mask.sizes());  // beta sum_{l >= t} log(pi_old / pi_ref)
  if (config.kl == KlPlacement::reward) {
    log_ratio = kl_k1(rollout.log_probs, ref_log_probs);
    penalty = sum_to_come(config.kl_coef * torch::where(mask, log_ratio, 0.0)) * mask;
  }
  switch (config.algorithm) {
    case Algorithm::grpo: {
      if (config.rewards_steps()) {
        const Tensor advantages = process_advantages(steps, rollout.lengths, config.group_size,
                                                     config.group_std, config.group_epsilon);
        return {advantages - penalty, {}};
      }
      const Tensor advantages = group_advantages(rewards, config.group_size, config.group_std,
                                                 config.group_epsilon, config.baseline);  // (B,)
      return {advantages.unsqueeze(1) * mask - penalty, {}};
    }
    case Algorithm::reinforce:  // without discount a token's return is the reward [REINFORCE++]
      return {whiten(rewards.unsqueeze(1) * mask, loss_mask) - penalty, {}};
    case Algorithm::rft:  // the gradient coefficient I(o) of [GRPO 5.2]
      return {right_responses(rollout).unsqueeze(1) * mask, {}};
    case Algorithm::ppo: {
      const Tensor per_token = token_rewards(rewards, mask, log_ratio, config.kl_coef);
      const Gae gae = generalized_advantages(per_token, values, mask, config.gamma, config.lambda);
      return {config.whiten ? whiten(gae.advantages, loss_mask) : gae.advantages, gae.returns};
    }
    case Algorithm::prime: {
      const Tensor per_token = prime_advantages(process_rewards, rewards, mask, log_ratio, config);
      return {config.whiten ? whiten(per_token, loss_mask) : per_token, {}};
    }
  }
  TORCH_CHECK(false, "estimate_advantages: unknown algorithm");
}

}  // namespace tiny_zero
