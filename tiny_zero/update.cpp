#include "tiny_zero/update.h"

#include <cmath>
#include <map>
#include <numeric>

#include "tiny_zero/files/safetensors.h"
#include "tiny_zero/loss.h"
#include "tiny_zero/random.h"

namespace tiny_zero {
namespace {

using torch::Tensor;

/// Runs `score` on every micro-batch without gradient and lays the tokens' results out as (B, T).
template <class Score>
Tensor score_tokens(const Model& model, const Rollout& rollout, int64_t max_tokens,
                    const Score& score) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> all(rollout.size());
  std::iota(all.begin(), all.end(), int64_t{0});
  Tensor table = torch::zeros_like(rollout.log_probs);
  for (const auto& responses : micro_batches(rollout, all, max_tokens)) {
    const ScoringBatch batch = make_scoring_batch(rollout, responses, model.device());
    table.index_put_({batch.rows, batch.columns},
                     score(model.hidden_states(batch.tokens), batch).cpu());
  }
  return table;
}

/// The rollout's responses dealt into mini-batches: as they are if there is one, else shuffled by
/// seed, step and pass.
std::vector<std::vector<int64_t>> deal(int64_t responses, int64_t parts, uint64_t seed,
                                       int64_t step, int64_t pass) {
  std::vector<int64_t> order(responses);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (parts > 1) {  // Fisher-Yates
    for (int64_t i = responses - 1; i > 0; --i) {
      const uint64_t draw = random_bits(seed, Stream::shuffle, step, pass, i);
      std::swap(order[i], order[draw % static_cast<uint64_t>(i + 1)]);
    }
  }
  std::vector<std::vector<int64_t>> dealt;
  for (int64_t p = 0; p < parts; ++p) {
    dealt.emplace_back(order.begin() + responses * p / parts,
                       order.begin() + responses * (p + 1) / parts);
    if (dealt.back().empty()) dealt.pop_back();
  }
  return dealt;
}

/// Per-token loss weights of one mini-batch as a (B, T) table, 0 for the responses of the others.
Tensor weights_table(const Experience& experience, const std::vector<int64_t>& responses,
                     const Config& config) {
  const Tensor index = torch::tensor(responses, torch::kInt64);
  return torch::zeros(experience.loss_mask.sizes())
      .index_copy_(0, index,
                   loss_weights(experience.loss_mask.index_select(0, index), config.aggregation,
                                config.max_response_tokens));
}

/// Sums of named quantities, on the model's device until they are read.
class Sums {
 public:
  void add(const std::string& name, const Tensor& value) {
    auto& sum = sums_[name];
    sum = sum.defined() ? sum + value.detach() : value.detach();
  }
  double get(const std::string& name) const {
    const auto found = sums_.find(name);
    return found == sums_.end() ? 0.0 : found->second.item<double>();
  }
  /// The first of these that is not finite, "" if all are.
  std::string not_finite(std::initializer_list<const char*> names) const {
    for (const char* name : names) {
      if (!std::isfinite(get(name))) return name;
    }
    return "";
  }

 private:
  std::map<std::string, Tensor> sums_;
};

/// What the losses of one mini-batch share.
struct PolicyUpdate {
  const Rollout& rollout;
  const Experience& experience;
  const Config& config;
  Tensor weights;        // (B, T): what each token counts
  bool on_policy;        // one update a rollout
  bool compare_sampler;  // no update yet: the policy is still the one that sampled
};

/// Forward and backward of one micro-batch: adds its part of the mini-batch's gradient, and of the
/// sums.
void accumulate(Model& policy, const PolicyUpdate& update, const std::vector<int64_t>& responses,
                Sums& sums, UpdateStats& stats) {
  const Config& config = update.config;
  const Experience& experience = update.experience;
  const ScoringBatch batch = make_scoring_batch(update.rollout, responses, policy.device());
  const Tensor hidden = policy.hidden_states(batch.tokens);
  const TokenLogProbs scored = policy.log_probs(hidden, batch.positions, batch.targets,
                                                config.temperature, /*with_entropy=*/true);
  const Tensor log_probs = scored.log_probs, sampled = batch.pick(update.rollout.log_probs);
  const Tensor advantages = batch.pick(experience.advantages), weight = batch.pick(update.weights);
  // One update a rollout: pi_old is pi_theta itself, and the ratio is exactly 1 whatever the
  // sampler rounded [T11].
  const Tensor old_log_probs = update.on_policy ? log_probs.detach() : sampled;

  Tensor loss = (weight * policy_loss(log_probs, old_log_probs, advantages, config.clip_low,
                                      config.clip_high))
                    .sum();
  sums.add("policy loss", loss);
  if (config.entropy_coef > 0)
    loss = loss - config.entropy_coef * (weight * scored.entropies).sum();
  if (experience.ref_log_probs.defined()) {
    const Tensor reference = batch.pick(experience.ref_log_probs);
    const Tensor k3 = kl_k3(log_probs, reference);
    sums.add("KL", k3.sum());
    if (config.kl == KlPlacement::loss_k3) loss = loss + config.kl_coef * (weight * k3).sum();
    if (config.kl == KlPlacement::loss_k2)
      loss = loss + config.kl_coef * (weight * kl_k2(log_probs, reference)).sum();
  }
  if (config.algorithm == Algorithm::ppo && config.critic == CriticNetwork::shared) {
    const Tensor values = policy.values(hidden, batch.positions);
    const Tensor value_term =
        (weight * value_loss(values, batch.pick(experience.values), batch.pick(experience.returns),
                             config.value_clip))
            .sum();
    sums.add("value loss", value_term);
    loss = loss + config.value_coef * value_term;
  }
  loss.backward();

  sums.add("entropy", scored.entropies.sum());
  sums.add("clipped", policy_clipped(log_probs.detach(), old_log_probs, advantages, config.clip_low,
                                     config.clip_high)
                          .sum());
  stats.tokens += batch.tokens.count();
  if (update.compare_sampler) {
    const Tensor gap = log_probs.detach() - sampled;
    sums.add("gap", gap.abs().sum());
    sums.add("compared", torch::tensor(static_cast<double>(gap.size(0))));
    stats.ratio_max_deviation =
        std::max(stats.ratio_max_deviation, (gap.exp() - 1).abs().max().item<double>());
  }
}

}  // namespace

Tensor score_log_probs(const Model& model, const Rollout& rollout, double temperature,
                       int64_t max_tokens) {
  return score_tokens(
      model, rollout, max_tokens, [&](const Tensor& hidden, const ScoringBatch& batch) {
        return model
            .log_probs(hidden, batch.positions, batch.targets, temperature, /*with_entropy=*/false)
            .log_probs;
      });
}

Tensor score_values(const Model& critic, const Rollout& rollout, int64_t max_tokens) {
  return score_tokens(critic, rollout, max_tokens,
                      [&](const Tensor& hidden, const ScoringBatch& batch) {
                        return critic.values(hidden, batch.positions);
                      });
}

UpdateStats update_policy(Model& policy, AdamW& optimizer, const Rollout& rollout,
                          const Experience& experience, const Config& config, double learning_rate,
                          int64_t step, const std::filesystem::path& dump_directory) {
  UpdateStats stats;
  const bool on_policy = config.epochs == 1 && config.mini_batches == 1;
  const double all_tokens = static_cast<double>(config.epochs * rollout.response_tokens());
  int64_t updates = 0;
  for (int64_t epoch = 0; epoch < config.epochs && stats.skipped.empty(); ++epoch) {
    for (const auto& mini_batch :
         deal(rollout.size(), config.mini_batches, config.seed, step, epoch)) {
      Sums sums;
      const PolicyUpdate update{rollout,   experience,
                                config,    weights_table(experience, mini_batch, config),
                                on_policy, /*compare_sampler=*/updates == 0};
      for (const auto& responses :
           micro_batches(rollout, mini_batch, config.tokens_per_micro_batch)) {
        accumulate(policy, update, responses, sums, stats);
      }
      stats.skipped = sums.not_finite({"policy loss", "KL", "entropy", "value loss"});
      if (!stats.skipped.empty()) {
        policy.gradients().zero_();
        break;  // what earlier mini-batches did stays done
      }
      const double norm = optimizer.step(policy.parameters(), policy.gradients(), learning_rate);
      if (!std::isfinite(norm)) {
        stats.skipped = "gradient";
        break;
      }
      if (updates++ == 0) stats.log_prob_gap_mean = sums.get("gap") / sums.get("compared");
      stats.grad_norm += norm;
      stats.policy_loss += sums.get("policy loss");
      stats.value_loss += sums.get("value loss");
      stats.kl += sums.get("KL") / all_tokens;
      stats.entropy += sums.get("entropy") / all_tokens;
      stats.clip_fraction += sums.get("clipped") / all_tokens;
    }
  }
  if (!stats.skipped.empty()) save_batch(dump_directory, step, rollout, experience);
  for (double* mean : {&stats.grad_norm, &stats.policy_loss, &stats.value_loss}) {
    *mean /= static_cast<double>(std::max<int64_t>(1, updates));
  }
  return stats;
}

void save_batch(const std::filesystem::path& directory, int64_t step, const Rollout& rollout,
                const Experience& experience) {
  save_safetensors(directory / ("not_finite_step_" + std::to_string(step) + ".safetensors"),
                   {{"response_ids", rollout.response_ids},
                    {"log_probs", rollout.log_probs},
                    {"rewards", rollout.rewards},
                    {"advantages", experience.advantages}});
}

double update_critic(Model& critic, AdamW& optimizer, const Rollout& rollout,
                     const Experience& experience, const Config& config, double learning_rate,
                     int64_t step) {
  double total = 0;
  int64_t updates = 0;
  for (int64_t epoch = 0; epoch < config.epochs; ++epoch) {
    // Its own stream of shuffles: the passes of the critic are numbered after those of the policy.
    for (const auto& mini_batch : deal(rollout.size(), config.critic_mini_batches, config.seed,
                                       step, config.epochs + epoch)) {
      const Tensor weights = weights_table(experience, mini_batch, config);
      Sums sums;
      for (const auto& responses :
           micro_batches(rollout, mini_batch, config.tokens_per_micro_batch)) {
        const ScoringBatch batch = make_scoring_batch(rollout, responses, critic.device());
        const Tensor values = critic.values(critic.hidden_states(batch.tokens), batch.positions);
        const Tensor loss =
            (batch.pick(weights) * value_loss(values, batch.pick(experience.values),
                                              batch.pick(experience.returns), config.value_clip))
                .sum();
        loss.backward();
        sums.add("value loss", loss);
      }
      if (!sums.not_finite({"value loss"}).empty()) {
        critic.gradients().zero_();
        return std::nan("");
      }
      if (!std::isfinite(optimizer.step(critic.parameters(), critic.gradients(), learning_rate)))
        return std::nan("");
      total += sums.get("value loss");
      ++updates;
    }
  }
  return total / static_cast<double>(updates);
}

}  // namespace tiny_zero
