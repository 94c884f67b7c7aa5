#pragma once
// Every setting of the program, once: name, default, allowed range, help, what it needs to have an
// effect. A recipe may hold any of them; a verb's --help shows those that the verb reads.

#include <string>

#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

struct Config {
  // run
  std::string name = "run";
  std::string runs_dir = "runs";
  std::string model;
  int64_t seed = 0;
  std::string device = "cpu";
  ComputeType compute_type = ComputeType::automatic;
  int64_t threads = 0;
  std::string memory;
  bool resume = false;
  int64_t save_every = 20;
  int64_t keep_checkpoints = 2;
  int64_t samples_per_step = 2;
  int64_t dump_steps = 0;
  bool show_settings = false;

  // task
  std::string task = "countdown";

  // model shape
  Shape shape = Shape::qwen2;
  int64_t layers = 4;
  int64_t hidden = 128;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t ffn = 320;
  int64_t max_positions = 1024;
  double rope_theta = 10000.0;

  // pretraining
  int64_t pretrain_tokens = 5'000'000;
  int64_t pretrain_batch_tokens = 2048;
  double pretrain_learning_rate = 2e-3;
  int64_t pretrain_warmup_updates = 0;

  // sft
  std::string data;
  int64_t sft_epochs = 1;
  int64_t sft_batch = 128;

  // pass rates
  std::string pass_rates;
  double min_pass_rate = 0.0;
  double max_pass_rate = 1.0;

  // sampling
  double temperature = 1.0;
  double top_p = 1.0;
  int64_t max_response_tokens = 224;
  std::string stop_text;
  int64_t rollout_batch = 512;

  // algorithm
  Algorithm algorithm = Algorithm::grpo;
  int64_t num_steps = 100;
  int64_t prompts_per_step = 32;
  int64_t group_size = 16;  // G
  int64_t epochs = 1;       // mu in [iterative GRPO]
  int64_t mini_batches = 1;
  int64_t tokens_per_micro_batch = 4096;
  bool dynamic_sampling = false;
  double kept_accuracy_min = 0.0;
  double kept_accuracy_max = 1.0;
  Truncated truncated = Truncated::keep;
  double truncation_penalty = 0.0;
  int64_t overlong_buffer = 64;

  // advantages
  Supervision supervision = Supervision::outcome;
  double gamma = 1.0;
  double lambda = 1.0;
  bool whiten = true;
  GroupStd group_std = GroupStd::sample;
  double group_epsilon = 1e-6;
  Baseline baseline = Baseline::mean;

  // loss
  PolicyLoss policy_loss = PolicyLoss::clip;
  double clip_low = 0.2;   // epsilon, downwards
  double clip_high = 0.2;  // epsilon, upwards
  double tis_cap = 0.0;    // C
  Aggregation aggregation = Aggregation::token;
  double entropy_coef = 0.0;
  KlPlacement kl = KlPlacement::none;
  double kl_coef = 0.001;  // beta
  int64_t reference_every = 0;

  // critic
  CriticNetwork critic = CriticNetwork::separate;
  HeadInit critic_head = HeadInit::zero;
  double critic_learning_rate = 5e-6;
  int64_t critic_mini_batches = 1;
  int64_t critic_warmup_steps = 0;
  double value_clip = 0.0;
  double value_coef = 0.5;

  // prime
  double prime_beta = 0.05;
  double prime_learning_rate = 1e-6;
  double prime_max_grad_norm = 10.0;
  double prime_process_weight = 5.0;
  double prime_outcome_weight = 5.0;
  PrimeScore prime_score = PrimeScore::after_update;

  // optimiser
  double learning_rate = 1e-6;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double adam_epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;
  int64_t warmup_updates = 0;
  Schedule schedule = Schedule::constant;
  double final_learning_rate = 0.0;

  // lora
  int64_t lora_rank = 0;  // r
  double lora_alpha = 32.0;

  // evaluation
  int64_t eval_problems = 1024;
  int64_t eval_samples = 1;
  bool greedy = true;
  std::string split = "test";
  std::string json;
  std::string responses;

  // generation
  std::string prompt;
  int64_t problem = -1;
  int64_t problems = 0;
  int64_t samples = 1;
  bool only_right = false;

  // text
  ChatTemplate chat = ChatTemplate::plain;
  bool decode = false;

  // pipes
  OnError on_error = OnError::stop;

  // decontamination
  std::string against;

  // export
  std::string output;
  ComputeType export_type = ComputeType::bfloat16;

  // report
  std::string expected;

  // bench
  int64_t bench_steps = 5;
  int64_t bench_vocab = 32;
  int64_t prompt_tokens = 16;
  int64_t response_tokens = 96;

  std::string changes;  // no setting: recipe lines of those that --resume changes

  /// What the algorithm's advantage estimator needs: values V(s), from which other predicates
  /// follow; others in a response's group to compare it with, which then needs two.
  struct Estimator {
    bool has_critic = false, compares_groups = false;
  };
  Estimator estimator() const;
  bool has_critic() const { return estimator().has_critic; }
  bool compares_groups() const { return estimator().compares_groups; }
  bool has_own_critic() const { return has_critic() && critic == CriticNetwork::separate; }
  bool has_shared_critic() const { return has_critic() && critic == CriticNetwork::shared; }
  /// Whether a process reward model learns beside the policy.   [PRIME]
  bool has_prm() const { return algorithm == Algorithm::prime; }
  /// First steps, in which only the critic learns.
  int64_t critic_only_steps() const { return has_own_critic() ? critic_warmup_steps : 0; }
  bool has_reference() const { return kl != KlPlacement::none; }
  /// Whether the steps of a response are rewarded, not only the whole.
  bool rewards_steps() const {
    return algorithm == Algorithm::grpo && supervision == Supervision::process;
  }
  /// One update per rollout: the policy that learns is the one that sampled.
  bool on_policy() const { return epochs == 1 && mini_batches == 1; }

  /// The list of settings, pointing into this object.
  Settings settings();
  /// Checks what no single range can say. Throws std::invalid_argument with names, values and the
  /// way out.
  void validate() const;
  /// Likewise what only training demands.
  void validate_training() const;
};

}  // namespace tiny_zero
