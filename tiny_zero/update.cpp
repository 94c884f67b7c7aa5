#include "tiny_zero/update.h"

#include <cmath>

#include "tiny_zero/methods/policy_terms.h"
#include "tiny_zero/methods/prime.h"
#include "tiny_zero/random.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {
namespace {

using torch::Tensor;

/// The responses split into mini-batches: in their order if there is one, else shuffled by seed,
/// step and pass.
std::vector<std::vector<int64_t>> split_responses(int64_t responses, int64_t parts, uint64_t seed,
                                                  int64_t step, int64_t shuffle) {
  std::vector<int64_t> order = count_up(responses);
  if (parts > 1) {  // Fisher-Yates
    for (int64_t i = responses - 1; i > 0; --i) {
      const uint64_t bits = random_bits(seed, Stream::shuffle, step, shuffle, i);
      std::swap(order[i], order[bits % static_cast<uint64_t>(i + 1)]);
    }
  }
  std::vector<std::vector<int64_t>> mini_batches;
  for (int64_t p = 0; p < parts; ++p) {
    mini_batches.emplace_back(order.begin() + responses * p / parts,
                              order.begin() + responses * (p + 1) / parts);
    if (mini_batches.back().empty()) mini_batches.pop_back();
  }
  return mini_batches;
}

/// The weight of each token of a mini-batch.   @return (B, T), 0 for the responses of the
/// others
Tensor weights_table(const Tensor& loss_mask, const std::vector<int64_t>& responses,
                     const Config& config) {
  const Tensor index = torch::tensor(responses, torch::kInt64);
  const Tensor weights = loss_weights(loss_mask.index_select(0, index), config.aggregation,
                                      config.max_response_tokens);
  return torch::zeros(loss_mask.sizes()).index_copy_(0, index, weights);
}

/// How often one network is updated on a rollout, and at what rate.
struct UpdatePlan {
  std::string name;       // in the dump
  int64_t mini_batches;   // per epoch
  int64_t first_shuffle;  // numbers the shuffles, so that each network has its own
  LearningRate rate;
  // (B,) bool, if any: responses without a gradient, which run forward alone, for the metrics
  Tensor idle = {};
};

/// The three loops that all networks share. `loss_of(batch, terms, update)` runs one micro-batch
/// forward and adds its loss, term by term; `update` counts the step's updates from 0.
template <class LossOf>
UpdateStats run_updates(Learner& learner, const UpdatePlan& plan, const Rollout& rollout,
                        const Tensor& loss_mask, const Config& config, int64_t step, StepDump* dump,
                        const OnProgress& on_progress, const LossOf& loss_of) {
  UpdateStats stats;
  int64_t done = 0;  // responses, over all passes
  std::map<std::string, int64_t> counts;
  for (int64_t epoch = 0; epoch < config.epochs; ++epoch) {
    const auto mini_batches = split_responses(rollout.size(), plan.mini_batches, config.seed, step,
                                              plan.first_shuffle + epoch);
    for (size_t m = 0; m < mini_batches.size(); ++m) {
      const Tensor weights = weights_table(loss_mask, mini_batches[m], config);
      LossTerms terms;
      for (const bool idle : {false, true}) {
        const at::AutoGradMode with_gradient(!idle);
        std::vector<int64_t> part = mini_batches[m];
        std::erase_if(part, [&](int64_t i) {
          return idle != (plan.idle.defined() && plan.idle[i].item<bool>());
        });
        for (const auto& responses :
             micro_batches(rollout, part, config.tokens_per_micro_batch, learner.model)) {
          const ScoringBatch batch = make_scoring_batch(rollout, responses, learner.model);
          terms.start(batch.pick(weights));
          loss_of(batch, terms, stats.updates);
          if (!idle) terms.loss().backward();
          stats.tokens += batch.tokens.count();
          done += std::ssize(responses);
          if (on_progress) on_progress(done, config.epochs * rollout.size());
        }
      }
      terms.finish();
      stats.skipped = terms.not_finite();
      if (!stats.skipped.empty()) {
        learner.discard();
        return stats;  // updates of earlier mini-batches are kept
      }
      const double rate = plan.rate.at(learner.optimizer.updates);
      const std::string prefix = plan.name + "." + std::to_string(stats.updates) + ".";
      if (dump) {
        for (const auto& [name, sum] : terms.sums()) dump->add(prefix + "loss." + name, sum);
        dump->add(prefix + "learning_rate", rate);
        dump->add_named(prefix + "gradient/", learner.model.named_gradients());
        const Tensor table = torch::zeros({config.epochs, rollout.size()}, torch::kInt64);
        dump->table(plan.name + "_update_of", table)[epoch].index_fill_(
            0, torch::tensor(mini_batches[m], torch::kInt64), static_cast<int64_t>(m));
      }
      const double norm = learner.step(rate);
      if (!std::isfinite(norm)) {
        stats.skipped = "gradient";
        return stats;
      }
      if (dump) dump->add(prefix + "grad_norm", norm);
      ++stats.updates;
      stats.learning_rate = rate;
      stats.grad_norm += norm;
      if (terms.weight() == 0) continue;  // every response is out of the loss: there is no mean
      for (const auto& [name, sum] : terms.sums()) {
        if (name == LossTerms::kTotal) continue;
        stats.means[name] += terms.mean(name);
        ++counts[name];
      }
    }
  }
  for (auto& [name, mean] : stats.means) mean /= static_cast<double>(counts[name]);
  stats.grad_norm /= static_cast<double>(std::max<int64_t>(1, stats.updates));
  return stats;
}

}  // namespace

UpdateStats update_policy(Learner& policy, const Rollout& rollout, const Judgement& judgement,
                          const Advantages& estimate, const Config& config, int64_t step,
                          StepDump* dump, const OnProgress& on_progress) {
  Tensor largest_ratio_gap = torch::zeros({}, policy.model.device());  // stays there until the end
  const auto loss_of = [&](const ScoringBatch& batch, LossTerms& terms, int64_t update) {
    const Tensor sampled = batch.pick(rollout.log_probs);  // (N,), as all that follow
    const Tensor advantages = batch.pick(estimate.advantages);
    const Tensor hidden = policy.model.hidden_states(batch.tokens);
    const auto [log_probs, entropies] =
        policy.model.log_probs(hidden, batch.positions, batch.targets, config.temperature,
                               /*with_entropy=*/true);
    const Tensor& before = judgement.old_log_probs;
    Tensor old_log_probs = before.defined() ? batch.pick(before) : sampled;
    // One update per rollout: pi_old is pi_theta itself, and the ratio is exactly 1 whatever the
    // sampler rounded [T11].
    if (config.on_policy()) old_log_probs = log_probs.detach();

    auto [losses, clipped] = policy_terms(config.policy_loss, log_probs, old_log_probs, advantages,
                                          config.clip_low, config.clip_high, batch.rows);
    if (config.tis_cap > 0)  // sampler and trainer round differently [TIS]
      losses = losses * (old_log_probs - sampled).exp().clamp_max(config.tis_cap);
    terms.add("policy_loss", losses);
    terms.add("entropy", entropies, -config.entropy_coef);
    if (judgement.ref_log_probs.defined()) {
      const Tensor ref_log_probs = batch.pick(judgement.ref_log_probs);
      terms.add("kl", kl_k3(log_probs, ref_log_probs),
                config.kl == KlPlacement::loss_k3 ? config.kl_coef : 0);
      if (config.kl == KlPlacement::loss_k2)
        terms.add("kl_k2", kl_k2(log_probs, ref_log_probs), config.kl_coef);
    }
    if (config.has_shared_critic()) {
      const Tensor values = policy.model.values(hidden, batch.positions),
                   old_values = batch.pick(judgement.values);
      terms.add("value_loss",
                value_loss(values, old_values, batch.pick(estimate.returns), config.value_clip),
                config.value_coef);
    }
    terms.add("clip_fraction", clipped, 0);
    if (update == 0) {  // the policy is still the one that sampled
      const Tensor gap = log_probs.detach() - sampled;
      terms.add("log_prob_gap_mean", gap.abs(), 0);
      largest_ratio_gap = torch::maximum(largest_ratio_gap, (gap.exp() - 1).abs().max());
    }
    if (dump) {
      const std::string prefix = "policy." + std::to_string(update) + ".";
      batch.put(dump->table(prefix + "log_probs", rollout.log_probs), log_probs.detach());
      batch.put(dump->table(prefix + "entropies", rollout.log_probs), entropies.detach());
    }
  };
  UpdatePlan plan{"policy", config.mini_batches, /*first_shuffle=*/0, policy_learning_rate(config)};
  if (config.entropy_coef == 0 && !config.has_shared_critic() && !judgement.ref_log_probs.defined())
    plan.idle = ((estimate.advantages == 0) | ~judgement.loss_mask).all(/*dim=*/1);
  UpdateStats stats = run_updates(policy, plan, rollout, judgement.loss_mask, config, step, dump,
                                  on_progress, loss_of);
  stats.ratio_max_deviation = largest_ratio_gap.item<double>();
  return stats;
}

UpdateStats update_critic(Learner& critic, const Rollout& rollout, const Judgement& judgement,
                          const Advantages& estimate, const Config& config, int64_t step,
                          StepDump* dump, const OnProgress& on_progress) {
  const auto loss_of = [&](const ScoringBatch& batch, LossTerms& terms, int64_t update) {
    const Tensor values = batch.values(critic.model);
    terms.add("value_loss", value_loss(values, batch.pick(judgement.values),
                                       batch.pick(estimate.returns), config.value_clip));
    if (dump) {
      batch.put(dump->table("critic." + std::to_string(update) + ".values", rollout.log_probs),
                values.detach());
    }
  };
  const UpdatePlan plan{"critic", config.critic_mini_batches, /*first_shuffle=*/config.epochs,
                        critic_learning_rate(config)};
  return run_updates(critic, plan, rollout, judgement.loss_mask, config, step, dump, on_progress,
                     loss_of);
}

UpdateStats update_prm(Learner& prm, const Rollout& rollout, const Tensor& ref_log_probs,
                       const Config& config, int64_t step, StepDump* dump) {
  const Config own = prm_config(config);
  const Tensor right = right_responses(rollout).to(prm.model.device());  // (B,)
  const auto loss_of = [&](const ScoringBatch& batch, LossTerms& terms, int64_t update) {
    const Tensor log_probs = batch.log_probs(prm.model, /*temperature=*/1);
    // A micro-batch holds whole responses, so it has all tokens of each sum.
    const Tensor rows = batch.rows.to(right.device()),
                 rewards = implicit_rewards(log_probs, batch.pick(ref_log_probs), own.prime_beta),
                 sums = torch::zeros_like(right).index_add(0, rows, rewards);
    terms.add("prm_loss", prm_loss(sums, right).index_select(0, rows));
    terms.add("prm_accuracy", ((sums > 0) == (right > 0)).index_select(0, rows), 0);
    if (dump) {
      batch.put(dump->table("prm." + std::to_string(update) + ".log_probs", rollout.log_probs),
                log_probs.detach());
    }
  };
  const UpdatePlan plan{"prm", own.mini_batches, /*first_shuffle=*/config.epochs,
                        policy_learning_rate(own)};
  return run_updates(prm, plan, rollout, rollout.mask, own, step, dump, {}, loss_of);
}

}  // namespace tiny_zero
