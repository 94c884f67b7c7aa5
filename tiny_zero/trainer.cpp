// The loop of R1-Zero: collect, judge, estimate advantages, update. The algorithms differ only in
// estimate_advantages(), and in the networks that the estimators need: PPO's critic, PRIME's
// process reward model.
//
// Departures from the papers, each a setting: the loss is a mean over all tokens of the mini-batch
// [DAPO] rather than per response ([GRPO eq. 3]: aggregation = sequence), and there is no KL unless
// asked for [ORZ, DAPO].

#include "tiny_zero/trainer.h"

#include "tiny_zero/methods/prime.h"
#include "tiny_zero/methods/process_supervision.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {

namespace fs = std::filesystem;

void Trainer::run() {
  Progress progress(step_, config_.num_steps);
  SamplingOptions options = sampling_options(config_, config_.temperature);
  options.on_progress = progress.phase("sampling");
  Sampler sampler(policy_->model, options);
  while (step_ < config_.num_steps && !interrupted() && watch_.verdict.empty()) {
    Stopwatch watch;
    const Collection collected = collect([&] { return sample_round(sampler); }, config_);
    const Rollout& rollout = collected.rollout;  // (B, T); B = prompts x group-size
    const double rollout_s = watch.lap();
    StepStats stats;
    StepDump dump;  // empty unless asked for
    // Rewards (B,); ref_log_probs, values and process_rewards (B, T), as far as they are needed.
    const Judgement judgement = judge(rollout, stats, dump);
    const Advantages estimate = estimate_advantages(rollout, judgement, config_);  // (B, T)
    update(collected, judgement, estimate, stats, dump, progress.phase("updating"));
    const double update_s = watch.lap();
    wall_s_ += rollout_s + update_s;
    const Json metrics = step_metrics(step_, collected, judgement, estimate, stats,
                                      {rollout_s, update_s, wall_s_}, device_);
    directory_.log_metrics(metrics);
    log_samples(directory_, step_, rollout, estimate.advantages, config_.samples_per_step);
    ++step_;
    progress.print(status_line(metrics));
    progress.print(watch_.look(metrics), stderr);
    progress.show(step_);
    if (step_ % config_.save_every == 0) save();
  }
  if (saved_step_ != step_) save();
  if (!watch_.verdict.empty()) throw std::runtime_error(watch_.verdict);
  progress.print(step_ < config_.num_steps
                     ? "stopped and saved; continue with: " + resume_command("train", config_)
                     : "model in " + (newest_checkpoint(directory_.path()) / "model").string());
}

Rollout Trainer::sample_round(Sampler& sampler) {
  const int64_t first = cursor_;
  std::vector<Problem> problems;
  for (int64_t i = 0; i < config_.prompts_per_step; ++i)
    problems.push_back(task_.problem(Split::train, cursor_++));
  Rollout rollout =
      sampler.sample(*tokenizer_, std::move(problems), config_.group_size, /*call=*/first);
  grade(task_, rollout);
  return rollout;
}

Judgement Trainer::judge(const Rollout& rollout, StepStats& stats, StepDump& dump) {
  Judgement judgement{rollout.rewards, loss_mask(rollout, config_.truncated), {}, {}};
  const int64_t tokens = config_.tokens_per_micro_batch;
  if (reference_)
    judgement.ref_log_probs = score_log_probs(*reference_, rollout, config_.temperature, tokens);
  if (config_.has_critic())
    judgement.values = score_values((critic_ ? critic_ : policy_)->model, rollout, tokens);
  if (prm_) {  // at temperature 1; it learns from this very rollout, first or afterwards [PRIME]
    const torch::Tensor frozen = score_log_probs(*prm_reference_, rollout, 1, tokens);
    const auto learn = [&] {
      stats.prm = update_prm(*prm_, rollout, frozen, config_, step_, if_wanted(dump));
    };
    if (config_.prime_score == PrimeScore::after_update) learn();
    const torch::Tensor scored = score_log_probs(prm_->model, rollout, 1, tokens);
    if (config_.prime_score == PrimeScore::before_update) learn();
    judgement.process_rewards =
        process_rewards(implicit_rewards(scored, frozen, config_.prime_beta), rollout.mask);
    dump.add("prm_log_probs", scored);
    dump.add("prm_ref_log_probs", frozen);
    dump.add("right", right_responses(rollout));
  }
  if (config_.tis_cap > 0 && !config_.on_policy())
    judgement.old_log_probs = score_log_probs(policy_->model, rollout, config_.temperature, tokens);
  if (config_.rewards_steps()) judgement.steps = reward_steps(rollout, *tokenizer_);
  return judgement;
}

void Trainer::update(const Collection& collected, const Judgement& judgement,
                     const Advantages& estimate, StepStats& stats, StepDump& dump,
                     const OnProgress& on_progress) {
  const Rollout& rollout = collected.rollout;
  StepDump* const dump_or_null = if_wanted(dump);
  if (critic_)
    stats.critic = update_critic(*critic_, rollout, judgement, estimate, config_, step_,
                                 dump_or_null, on_progress);
  if (step_ >= config_.critic_only_steps()) {
    stats.policy = update_policy(*policy_, rollout, judgement, estimate, config_, step_,
                                 dump_or_null, on_progress);
  }
  if (reference_ && config_.reference_every > 0 && (step_ + 1) % config_.reference_every == 0) {
    reference_ = policy_->model.clone(Head::language_model);  // [iterative GRPO]
    reference_moved_ = true;
  }
  if (dump_or_null || (!stats.skipped().empty() && watch_.wants_dump())) {
    dump.add_rollout(collected, judgement, estimate);
    save_dump(dump, /*complete=*/dump_or_null != nullptr);
  }
}

void Trainer::save_dump(StepDump& dump, bool complete) const {
  const std::string file = "step_" + std::to_string(step_) + ".safetensors";
  if (!complete) return dump.save(directory_.path() / ("not_finite_" + file));
  dump.add_named("policy.weights/", policy_->model.named_tensors());
  if (critic_) dump.add_named("critic.weights/", critic_->model.named_tensors());
  if (prm_) dump.add_named("prm.weights/", prm_->model.named_tensors());
  if (reference_) dump.add_named("reference.weights/", reference_->named_tensors());
  dump.save(directory_.path() / "dump" / file);
}

Trainer::Trainer(const Config& config, const Task& task, RunDirectory& directory)
    : config_(config), task_(task), device_(config.device), directory_(directory) {
  const Checkpoint& checkpoint = directory_.checkpoint();
  const fs::path start = config_.resume ? checkpoint.path / "model" : fs::path(config_.model);
  tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_file(start / "tokenizer.json"));
  side_files_ = read_side_files(start);
  const Head head = config_.has_shared_critic() ? Head::both : Head::language_model;
  const auto saved = [&](const char* name, Head with, const Config& settings) {
    return Learner::load(checkpoint.path, name, with, device_, settings);
  };
  if (config_.resume) {
    policy_ = saved("model", head, config_);
    if (config_.has_own_critic()) critic_ = saved("critic", Head::value, config_);
    if (config_.has_prm()) prm_ = saved("prm", Head::language_model, prm_config(config_));
    saved_step_ = step_ = checkpoint.count("step");
    cursor_ = checkpoint.count("cursor");
    wall_s_ = checkpoint["wall_s"].number();
    watch_.counts = checkpoint.state.value("watch", watch_.counts);
  } else {
    Model loaded = Model::load(start, head, device_).merged();
    if (config_.lora_rank > 0) {
      const Lora lora{config_.lora_rank, config_.lora_alpha, fs::canonical(start),
                      checksum_of_weights(start)};
      loaded = loaded.with_adapters(lora, static_cast<uint64_t>(config_.seed));
    }
    policy_.emplace(std::move(loaded), config_);
    if (config_.has_own_critic()) critic_.emplace(policy_->model.clone(Head::value), config_);
    if (config_.has_prm())
      prm_.emplace(policy_->model.clone(Head::language_model), prm_config(config_));
    if (config_.has_critic())
      init_value_head((critic_ ? critic_ : policy_)->model, config_.critic_head, config_.seed);
  }
  if (config_.has_reference() || config_.has_prm()) sources_ = checksum_of_weights(config_.model);
  if (!config_.pass_rates.empty()) sources_ += checksum(std::ifstream(config_.pass_rates));
  if (config_.resume && checkpoint.state.value("sources", sources_) != sources_)
    throw std::runtime_error("model " + config_.model + " or pass-rates " + config_.pass_rates +
                             " is not what the run began with; put the old files back");
  if (config_.has_reference()) {
    const fs::path moved = checkpoint.path / "reference";
    reference_moved_ = config_.resume && fs::exists(moved);
    if (config_.lora_rank > 0 && !reference_moved_)
      reference_ = policy_->model.without_adapters();  // no second copy [LoRA]
    else
      reference_ = Model::load(reference_moved_ ? moved : fs::path(config_.model),
                               Head::language_model, device_)
                       .merged();
  }
  if (config_.has_prm()) prm_reference_ = Model::load(config_.model, Head::language_model, device_);
  directory_.start();
  for (Model* model :
       {&policy_->model, critic_ ? &critic_->model : nullptr, prm_ ? &prm_->model : nullptr,
        reference_ ? &*reference_ : nullptr, prm_reference_ ? &*prm_reference_ : nullptr}) {
    if (!model) continue;
    model->limit_vocabulary(static_cast<int64_t>(tokenizer_->vocab_size()));
    model->set_compute_type(to_dtype(config_.compute_type));
  }
  if (step_ == 0 && config_.dump_steps > 0) {
    const fs::path dump = directory_.path() / "dump" / "start";
    policy_->model.save(dump / "policy");
    if (critic_) critic_->model.save(dump / "critic");
    if (prm_) prm_->model.save(dump / "prm");
    if (reference_) reference_->save(dump / "reference");
  }
}

void Trainer::save() {
  saved_step_ = step_;
  const Json state = {{"step", step_},     {"cursor", cursor_},      {"seed", config_.seed},
                      {"wall_s", wall_s_}, {"watch", watch_.counts}, {"sources", sources_}};
  directory_.save(step_, state, config_.keep_checkpoints, [&](const fs::path& directory) {
    policy_->save(directory, "model");
    write_side_files(directory / "model", side_files_);
    if (critic_) critic_->save(directory, "critic");
    if (prm_) prm_->save(directory, "prm");
    if (reference_moved_) reference_->save(directory / "reference");
  });
}

}  // namespace tiny_zero
