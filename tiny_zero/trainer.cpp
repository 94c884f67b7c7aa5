// The loop of R1-Zero: sample, grade, estimate advantages, update. PPO and GRPO part in one line of
// Trainer::run().
//
// Departures from the papers, each a setting: the loss is a mean over all tokens of the step (DAPO)
// rather than per response (GRPO eq. 3: aggregation = sequence), and there is no KL unless asked
// for (ORZ, DAPO).

#include "tiny_zero/trainer.h"

#include <cmath>
#include <numeric>

#include "tiny_zero/advantage.h"
#include "tiny_zero/loss.h"
#include "tiny_zero/metrics.h"
#include "tiny_zero/random.h"
#include "tiny_zero/settings/progress.h"
#include "tiny_zero/verbs/plan.h"

namespace tiny_zero {
namespace {

using torch::Tensor;

/// The rollout's mask, less the responses that were cut if they are to teach nothing [T16].
Tensor trainable_tokens(const Rollout& rollout, Truncated truncated) {
  Tensor mask = rollout.mask.clone();
  for (int64_t i = 0; i < rollout.size(); ++i) {
    if (truncated == Truncated::mask && !rollout.finished[i]) mask[i].zero_();
  }
  return mask;
}

/// The rule's rewards on the last tokens, with what the settings add to them.   @return (B, T)
Tensor shaped_rewards(const Rollout& rollout, const Tensor& ref_log_probs, const Config& config) {
  Tensor rewards = rollout.rewards.clone();
  for (int64_t i = 0; i < rollout.size(); ++i) {
    if (config.truncated == Truncated::penalise && !rollout.finished[i])
      rewards[i] = config.truncation_penalty;
  }
  Tensor log_ratio;
  if (config.kl == KlPlacement::reward) log_ratio = kl_k1(rollout.log_probs, ref_log_probs);
  return token_rewards(rewards, rollout.mask, log_ratio, config.kl_coef);
}

/// uniform(-sqrt 5, sqrt 5).   [ORZ]
void init_head_orz(Model& critic, uint64_t seed) {
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::value_head));
  const double bound = std::sqrt(5.0);
  critic.value_head().copy_(
      torch::empty(critic.value_head().sizes()).uniform_(-bound, bound, generator));
}

}  // namespace

void Trainer::run() {
  Sampler sampler(*policy_, sampling_options(config_, config_.temperature));
  Progress progress(step_, config_.num_steps);
  while (step_ < config_.num_steps && !interrupted()) {
    Stopwatch watch;
    const Rollout rollout =
        collect(sampler);  // prompts_per_step x group_size responses and their rewards
    const double rollout_s = watch.lap();
    Experience experience;
    experience.loss_mask = trainable_tokens(rollout, config_.truncated);
    if (reference_) {
      experience.ref_log_probs = score_log_probs(*reference_, rollout, config_.temperature,
                                                 config_.tokens_per_micro_batch);
    }
    const Tensor rewards = shaped_rewards(rollout, experience.ref_log_probs, config_);  // (B, T)
    if (config_.algorithm == Algorithm::grpo) {
      experience.advantages =
          group_advantages(rewards.sum(/*dim=*/1), config_.group_size, config_.group_std,
                           config_.group_epsilon, config_.baseline)
              .unsqueeze(1) *
          rollout.mask;
    } else {
      experience.values =
          score_values(critic_ ? *critic_ : *policy_, rollout, config_.tokens_per_micro_batch);
      const Gae gae = generalized_advantages(rewards, experience.values, rollout.mask,
                                             config_.gamma, config_.lambda);
      experience.returns = gae.returns;
      experience.advantages =
          config_.whiten ? whiten(gae.advantages, experience.loss_mask) : gae.advantages;
    }
    const UpdateStats stats = update(rollout, experience);
    const double update_s = watch.lap();
    wall_s_ += rollout_s + update_s;
    const StepTimes times{rollout_s, update_s, wall_s_};
    const Json metrics = step_metrics(step_, rollout, experience, stats, times,
                                      policy_learning_rate(), device_, config_);
    directory_.log_metrics(metrics);
    log_samples(directory_, step_, rollout, config_.samples_per_step);
    ++step_;
    progress.show(metrics);
    if (step_ % config_.save_every == 0) save();
  }
  if (saved_step_ != step_) save();
  progress.finish(step_ < config_.num_steps
                      ? "stopped and saved; continue with: tiny_zero train --resume --runs-dir " +
                            config_.runs_dir + " --name " + config_.name
                      : "model in " + (directory_.newest_checkpoint() / "model").string());
}

Trainer::Trainer(const Config& config, const Settings& settings, const Task& task)
    : config_(config), task_(task), device_(config.device), directory_(config) {
  const auto checkpoint = config_.resume ? directory_.newest_checkpoint() : std::filesystem::path();
  const bool ppo = config_.algorithm == Algorithm::ppo;
  const bool own_critic = ppo && config_.critic == CriticNetwork::separate;
  const Head head = ppo && !own_critic ? Head::both : Head::language_model;
  const auto seed = static_cast<uint64_t>(config_.seed);
  const std::filesystem::path start =
      config_.resume ? checkpoint / "model" : std::filesystem::path(config_.model);
  tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_file(start / "tokenizer.json"));
  side_files_ = read_side_files(start);
  const std::string too_much = show(plan_memory(config_, task_, *tokenizer_, start));
  if (!too_much.empty()) throw std::invalid_argument(too_much);
  if (config_.resume) {
    policy_ = load_trained(checkpoint, "model", head, device_, config_, optimizer_);
    if (own_critic)
      critic_ =
          load_trained(checkpoint, "critic", Head::value, device_, config_, critic_optimizer_);
    const Json state = directory_.restore(checkpoint);
    step_ = state.at("step");
    cursor_ = state.at("cursor");
    wall_s_ = state.at("wall_s");
  } else {
    policy_ = Model::load(start, head, device_);
    optimizer_ = std::make_unique<AdamW>(policy_->parameters(), config_);
    if (own_critic) {
      critic_ = policy_->clone(Head::value);
      critic_optimizer_ = std::make_unique<AdamW>(critic_->parameters(), config_);
    }
    if (ppo && config_.critic_head == HeadInit::orz)
      init_head_orz(own_critic ? *critic_ : *policy_, seed);
  }
  if (config_.kl != KlPlacement::none) {
    const bool moved = config_.resume && std::filesystem::exists(checkpoint / "reference");
    reference_ =
        Model::load(moved ? checkpoint / "reference" : std::filesystem::path(config_.model),
                    Head::language_model, device_);
  }
  if (!config_.resume) directory_.create(settings);
  saved_step_ = config_.resume ? step_ : -1;
  for (auto* model : {&policy_, &critic_, &reference_}) {
    if (!*model) continue;
    (*model)->limit_vocabulary(static_cast<int64_t>(tokenizer_->vocab_size()));
    (*model)->set_compute_type(to_dtype(config_.compute_type));
  }
}

Rollout Trainer::collect(Sampler& sampler) {
  constexpr int kMaxRounds =
      8;  // of dynamic sampling; a task that is all right or all wrong must not hang the run
  std::optional<Rollout> kept;
  for (int round = 0;; ++round) {
    const int64_t call = cursor_;
    std::vector<Problem> problems;
    for (int64_t i = 0; i < config_.prompts_per_step; ++i)
      problems.push_back(task_.problem(Split::train, cursor_++));
    Rollout rollout = sampler.sample(*tokenizer_, std::move(problems), config_.group_size, call);
    grade(task_, rollout);
    if (!config_.dynamic_sampling) return rollout;
    const auto mixed = mixed_groups(rollout);
    if (!mixed.empty()) {
      const Rollout chosen = select_prompts(rollout, mixed);
      kept = kept ? concatenate(*kept, chosen) : chosen;
    }
    const int64_t have = kept ? static_cast<int64_t>(kept->prompts.size()) : 0;
    if (have >= config_.prompts_per_step) {
      std::vector<int64_t> first(config_.prompts_per_step);
      std::iota(first.begin(), first.end(), int64_t{0});
      return select_prompts(*kept, first);
    }
    if (round + 1 == kMaxRounds) return kept ? *kept : rollout;
  }
}

double Trainer::policy_learning_rate() const {
  return scheduled_learning_rate(config_.learning_rate, config_.final_learning_rate,
                                 config_.schedule, step_, config_.warmup_steps, config_.num_steps);
}

UpdateStats Trainer::update(const Rollout& rollout, const Experience& experience) {
  double critic_loss = std::nan("");
  if (critic_) {
    const double rate =
        scheduled_learning_rate(config_.critic_learning_rate, config_.critic_learning_rate,
                                Schedule::constant, step_, config_.warmup_steps, config_.num_steps);
    critic_loss =
        update_critic(*critic_, *critic_optimizer_, rollout, experience, config_, rate, step_);
  }
  const bool warming_up =
      config_.algorithm == Algorithm::ppo && step_ < config_.critic_warmup_steps;
  UpdateStats stats =
      update_policy(*policy_, *optimizer_, rollout, experience, config_,
                    warming_up ? 0.0 : policy_learning_rate(), step_, directory_.path());
  if (critic_) {
    stats.value_loss = critic_loss;
    if (!std::isfinite(critic_loss) && stats.skipped.empty()) {
      stats.skipped = "value loss";
      save_batch(directory_.path(), step_, rollout, experience);
    }
  }
  if (config_.reference_every > 0 && (step_ + 1) % config_.reference_every == 0 && reference_) {
    reference_ = policy_->clone(Head::language_model);  // iterative GRPO
  }
  return stats;
}

void Trainer::save() {
  saved_step_ = step_;
  const Json state = {
      {"step", step_}, {"cursor", cursor_}, {"seed", config_.seed}, {"wall_s", wall_s_}};
  directory_.save(step_, state, config_.keep_checkpoints,
                  [&](const std::filesystem::path& directory) {
                    save_trained(directory, "model", *policy_, *optimizer_);
                    write_side_files(directory / "model", side_files_);
                    if (critic_) save_trained(directory, "critic", *critic_, *critic_optimizer_);
                    if (reference_ && config_.reference_every > 0)
                      reference_->save(directory / "reference");
                  });
}

}  // namespace tiny_zero
