#include "tiny_zero/settings/config.h"

#include <algorithm>
#include <sstream>

namespace tiny_zero {

Settings Config::settings() {
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  constexpr double kAny = Settings::kAny;
  Settings list;
  list.section("run")
      .add("name", name, "name of the run: its files lie in RUNS-DIR/NAME")
      .add("runs-dir", runs_dir, "directory of all runs")
      .add("model", model,
           "model directory in Hugging Face layout: config.json, model.safetensors, tokenizer.json")
      .identity()
      .add("seed", seed, 0, kMany, "the same seed gives the same run, byte for byte, on the CPU")
      .identity()
      .add("device", device, "cpu, cuda or cuda:N")
      .add("compute-type", compute_type, "of products, auto the fastest; weights: float32 [T12]")
      .add("gpu-memory", memory, "for train and plan, such as 24GiB; empty asks the device")
      .add("threads", threads, 0, 1024, "CPU threads; 0 takes all cores")
      .add("resume", resume, "continue the run from its newest checkpoint")
      .add("save-every", save_every, 1, kMany, "steps between checkpoints")
      .add("keep-checkpoints", keep_checkpoints, 1, kMany, "newest checkpoints that are kept")
      .add("samples-per-step", samples_per_step, 0, kMany,
           "responses per step written to samples.jsonl, those to one prompt together")
      .add("dump-steps", dump_steps, 0, kMany,
           "first steps that are written to dump/ tensor by tensor, for tests/check_step.py")
      .add("show-settings", show_settings,
           "print all settings at the start, not only those that differ from recipe and defaults");
  list.section("task", /*identity=*/true).add("task", task, "what is asked and how it is graded");
  list.section("shape", /*identity=*/true)
      .add("shape", shape,
           "qwen2; roformer-v2: norms without weights after each part, no biases, no gate "
           "[RoFormerV2]; gpt: LayerNorm, biases everywhere, no gate. The last two are this "
           "program's own: transformers cannot read them")
      .add("layers", layers, 1, 1000, "transformer blocks")
      .add("hidden", hidden, 16, kMany, "width of the hidden states")
      .add("heads", heads, 1, 1000, "query heads; hidden / heads is the head size, an even number")
      .add("kv-heads", kv_heads, 1, 1000, "key-value heads; divides heads")
      .add("ffn", ffn, 16, kMany, "width inside the feed-forward part")
      .add("max-positions", max_positions, 16, kMany, "longest prompt and response together")
      .add("rope-theta", rope_theta, 1.0, kAny, "base of the rotary angles");
  list.section("pretraining")
      .add("pretrain-tokens", pretrain_tokens, 1, kMany, "tokens of base text to train on")
      .add("pretrain-batch-tokens", pretrain_batch_tokens, 1, kMany,
           "tokens per update; small batches learn more per token")
      .add("pretrain-learning-rate", pretrain_learning_rate, 0.0, 1.0, "falls linearly to 0")
      .add("pretrain-warmup-updates", pretrain_warmup_updates, 0, kMany,
           "first updates, over which the learning rate rises linearly, and with roformer-v2 the "
           "weight of each layer's parts (a) from 0 to 1; 0 is none");
  list.section("sft")
      .add("data", data, "JSON Lines file of {\"prompt\", \"response\"}, as generate writes them")
      .identity()
      .add("sft-epochs", sft_epochs, 1, 100000, "passes over the data, each in a new order")
      .add("sft-batch", sft_batch, 1, kMany, "examples per update");
  list.section("pass rates", /*identity=*/true)
      .add("pass-rates", pass_rates,
           "JSON Lines file of each training problem's share of right responses: eval writes it, "
           "train takes its problems from it; empty for none")
      .add("min-pass-rate", min_pass_rate, 0.0, 1.0,
           "problems with a smaller share of right responses are left out")
      .add("max-pass-rate", max_pass_rate, 0.0, 1.0, "so are those with a larger one");
  list.section("sampling")
      .add("temperature", temperature, 0.0, 100.0,
           "divides the logits; 0 is greedy, not for training")
      .add("top-p", top_p, 1e-9, 1.0, "keeps the likeliest tokens of this mass; 1 to train [T9]")
      .add("max-response-tokens", max_response_tokens, 1, kMany,
           "longest response; what the model has not ended by then is truncated")
      .add("stop-text", stop_text, "text that ends a response, such as </answer>; empty for none")
      .add("rollout-batch", rollout_batch, 1, kMany,
           "responses sampled side by side; bounds the cache's memory");
  list.section("algorithm")
      .add("algorithm", algorithm,
           "where advantages come from: a critic (ppo), the group (grpo), the group and a reward "
           "for every token (prime), the rewards of the whole batch (reinforce) [REINFORCE++], or "
           "1 for right responses only (rft) [GRPO 5.2]")
      .identity()
      .add("num-steps", num_steps, 0, kMany, "steps: sample, grade, update")
      .add("prompts-per-step", prompts_per_step, 1, kMany, "problems per step")
      .add("group-size", group_size, 1, 65536, "responses per problem (G)")
      .add("epochs", epochs, 1, 1000,
           "passes over each rollout (mu); 1, with mini-batches 1, is strictly on-policy")
      .add("mini-batches", mini_batches, 1, 65536, "policy updates per epoch")
      .add("tokens-per-micro-batch", tokens_per_micro_batch, 1, kMany,
           "tokens per forward pass; changes memory and speed, never the gradient")
      .add("dynamic-sampling", dynamic_sampling,
           "drop groups whose rewards are all equal and sample until enough are left [DAPO]")
      .add("kept-accuracy-min", kept_accuracy_min, 0.0, 1.0,
           "drop also groups with a smaller share of right responses")
      .add("kept-accuracy-max", kept_accuracy_max, 0.0, 1.0, "or with a larger one")
      .add("truncated", truncated,
           "responses that reach max-response-tokens: graded as they are, given "
           "truncation-penalty, or left out of the loss [T16]; soft takes up to 1 from the reward "
           "of those that come near [DAPO eq. 13]")
      .add("truncation-penalty", truncation_penalty, -kAny, 0, "the reward of such a response")
      .add("overlong-buffer", overlong_buffer, 1, kMany,
           "last tokens before max-response-tokens, over which what soft takes grows from 0 to 1");
  list.section("advantages")
      .add("supervision", supervision,
           "grpo: rewards of whole responses, or also of their graded steps (process) [GRPO 4.1.3]")
      .add("gamma", gamma, 0.0, 1.0, "discount of later rewards")
      .add("lambda", lambda, 0.0, 1.0, "GAE: 1 is Monte Carlo, 0 one-step")
      .add("whiten", whiten, "advantages to mean 0, deviation 1 over the rollout's tokens [T18]")
      .add("group-std", group_std,
           "divide by the group's standard deviation, over n - 1 or n; none is Dr. GRPO")
      .add("group-epsilon", group_epsilon, 0.0, 1.0, "added to the deviation")
      .add("baseline", baseline,
           "mean of the group, or of the others in it. RLOO is leave-one-out with group-std "
           "none and aggregation constant; alone it only scales GRPO by G / (G - 1)");
  list.section("loss")
      .add("policy-loss", policy_loss,
           "clip the ratio of each token [PPO eq. 7], that of the whole response [GSPO], or the "
           "weight of each token's log-prob and never its gradient [CISPO]")
      .add("clip-low", clip_low, 0.0, 1.0, "the ratio is clipped below 1 - clip-low")
      .add("clip-high", clip_high, 0.0, kAny,
           "the ratio is clipped above 1 + clip-high; more than clip-low is DAPO's clip-higher")
      .add("tis-cap", tis_cap, 0.0, kAny,
           "weighs each token by pi_trainer / pi_sampler, this at most [TIS]; 0 is off")
      .add("aggregation", aggregation,
           "per mini-batch: mean over its tokens [DAPO], over tokens then responses [GRPO eq. 3], "
           "or sum over tokens divided by a constant [Dr. GRPO]")
      .add("entropy-coef", entropy_coef, 0.0, kAny, "weight of the entropy bonus")
      .add("kl", kl,
           "KL to the reference: in the reward as k1 [GRPO eq. 2], or in the loss as k3 [GRPO eq. "
           "4] or as k2, whose gradient is the KL's")
      .add("kl-coef", kl_coef, 0.0, kAny, "weight of the KL (beta)")
      .add("reference-every", reference_every, 0, kMany,
           "steps after which the policy becomes the reference [iterative GRPO]; 0 never");
  list.section("critic")
      .add("critic", critic, "a network of its own, or a second head on the policy's trunk")
      .identity()
      .add("critic-head", critic_head,
           "start of the value head: zero, uniform(-sqrt 5, sqrt 5) as ORZ's paper says (orz), or "
           "normal with deviation 1 / (hidden + 1) as its code does")
      .identity()
      .add("critic-learning-rate", critic_learning_rate, 0.0, 1.0, "of a critic of its own")
      .add("critic-mini-batches", critic_mini_batches, 1, 65536,
           "updates of a critic of its own per epoch")
      .add("critic-warmup-steps", critic_warmup_steps, 0, kMany, "first steps, the critic's alone")
      .add("value-clip", value_clip, 0.0, kAny,
           "clips values to within this of the old ones in the loss; 0 is off")
      .add("value-coef", value_coef, 0.0, kAny, "weight of the value loss beside the policy's");
  list.section("prime")
      .add("prime-beta", prime_beta, 0.0, kAny,
           "scales the log-ratio of process reward model (PRM) and reference")
      .add("prime-learning-rate", prime_learning_rate, 0.0, 1.0, "of the PRM, without weight decay")
      .add("prime-max-grad-norm", prime_max_grad_norm, 0.0, kAny,
           "the PRM's gradients are scaled down to this norm; 0 is off")
      .add("prime-process-weight", prime_process_weight, 0.0, kAny, "of the tokens' rewards")
      .add("prime-outcome-weight", prime_outcome_weight, 0.0, kAny,
           "of the task's reward; with whiten only the ratio of the two weights counts")
      .add("prime-score", prime_score,
           "whether the PRM learns from a rollout before it scores it, or after");
  list.section("optimiser")
      .add("learning-rate", learning_rate, 0.0, 1.0, "of the policy, after the warm-up")
      .add("beta1", beta1, 0.0, 0.999999, "AdamW: decay of the gradient's mean")
      .add("beta2", beta2, 0.0, 0.999999, "AdamW: decay of the gradient's square")
      .add("adam-epsilon", adam_epsilon, 0.0, 1.0, "AdamW: added to the root of the square")
      .add("weight-decay", weight_decay, 0.0, 1.0,
           "AdamW: decoupled decay, multiplied by the learning rate")
      .add("max-grad-norm", max_grad_norm, 0.0, kAny,
           "gradients are scaled down to this norm; 0 is off")
      .add("warmup-updates", warmup_updates, 0, kMany,
           "updates over which the learning rate rises linearly; each network counts its own [T38]")
      .add("schedule", schedule, "how both learning rates change after the warm-up")
      .add("final-learning-rate", final_learning_rate, 0.0, 1.0,
           "of the policy, at the schedule's end; the critic's falls to the same fraction of its "
           "own");
  list.section("lora", /*identity=*/true)
      .add("lora-rank", lora_rank, 0, 65536,
           "train W + (alpha / rank) B A with W frozen, on every matrix of the policy's layers "
           "[LoRA]; wants about ten times the learning rate. 0 trains all weights")
      .add("lora-alpha", lora_alpha, 1e-9, kAny, "weight of the product B A, divided by lora-rank");
  list.section("evaluation")
      .add("eval-problems", eval_problems, 1, kMany, "problems")
      .add("eval-samples", eval_samples, 1, 65536,
           "responses per problem: accuracy is their mean, avg@k; k of pass@k and maj@k")
      .add("greedy", greedy, "also the greedy response of each problem")
      .add("split", split, "train or test")
      .add("json", json, "file for the figures as JSON; - is standard output")
      .add("responses", responses, "file for all responses, one JSON object per line");
  list.section("generation")
      .add("prompt", prompt, "text to continue, printed as it is written; empty reads JSON Lines")
      .add("problem", problem, -1, kMany,
           "number of a test problem of the task to answer and grade; -1 for none")
      .add("problems", problems, 0, kMany,
           "first training problems of the task to answer and grade, as JSON Lines")
      .add("samples", samples, 1, 65536, "responses to each prompt")
      .add("only-right", only_right,
           "only right responses that have ended, each of a problem's once");
  list.section("text")
      .add("chat", chat, "wrap each prompt as a message to Qwen2.5-Instruct or SmolLM2")
      .add("decode", decode, "tokenize: read ids and write text");
  list.section("pipes").add("on-error", on_error,
                            "at a line that cannot be used: stop, or write {\"error\"} instead");
  list.section("decontamination")
      .add("against", against, "JSON Lines file of the test problems to keep out");
  list.section("export")
      .add("output", output, "directory to write the model to")
      .add("export-type", export_type, "type of the weights in the file");
  list.section("report").add("expected", expected,
                             "file of earlier seeds' summaries, one per line; empty for none");
  list.section("bench")
      .add("bench-steps", bench_steps, 1, kMany, "measured steps; the median counts")
      .add("bench-vocab", bench_vocab, 2, kMany, "vocabulary size")
      .add("prompt-tokens", prompt_tokens, 1, kMany, "tokens of each prompt")
      .add("response-tokens", response_tokens, 1, kMany, "tokens of each response");
  // What has no effect unless something else is chosen. For one update per rollout the ratio is 1.
  const std::string updates = "mini-batches > 1 or epochs > 1";
  list.needs("truncated = penalise", {"truncation-penalty"})
      .needs("truncated = soft", {"overlong-buffer"})
      .needs("dynamic-sampling = true", {"kept-accuracy-min", "kept-accuracy-max"})
      .needs("algorithm = ppo", {"gamma", "lambda", /*section*/ "critic"})
      .needs("algorithm = ppo or algorithm = prime", {"whiten"})
      .needs("algorithm = prime", {/*section*/ "prime"})
      .needs("algorithm = grpo", {"supervision", "group-std", "group-epsilon", "baseline"})
      .needs("group-std != none", {"group-epsilon"})
      .needs(updates, {"policy-loss", "clip-low", "clip-high"})
      .needs("policy-loss != cispo", {"clip-low"})
      .needs("kl != none", {"kl-coef", "reference-every"})
      .needs("critic = separate",
             {"critic-learning-rate", "critic-mini-batches", "critic-warmup-steps"})
      .needs("critic = shared", {"value-coef"})
      .needs("critic-mini-batches > 1 or epochs > 1 or critic = shared", {"value-clip"})
      .needs(updates + " or critic = separate", {"value-clip"})
      .needs("schedule != constant", {"final-learning-rate"})
      .needs("lora-rank > 0", {"lora-alpha"})
      .needs("temperature > 0", {"top-p"})
      .needs("prompt = nothing", {"problem", "problems", "on-error"})
      .needs("problem = -1", {"chat", "problems", "on-error"})
      .needs("problems = 0", {"chat", "on-error"})
      .needs("problems > 0", {"only-right"})
      .needs("pass-rates != nothing or problems > 0", {"min-pass-rate", "max-pass-rate"});
  return list;
}

Config::Estimator Config::estimator() const {
  switch (algorithm) {
    case Algorithm::ppo:
      return {.has_critic = true};
    case Algorithm::grpo:
    case Algorithm::prime:
      return {.compares_groups = true};
    case Algorithm::reinforce:
    case Algorithm::rft:
      return {};
  }
  throw std::logic_error("estimator: unknown algorithm");
}

namespace {
template <class... Parts>
void demand(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}
}  // namespace

void Config::validate() const {
  demand(device == "cpu" || device.starts_with("cuda"), "device is \"", device,
         "\", want cpu, cuda or cuda:N");
  demand(split == "train" || split == "test", "split is \"", split, "\", want train or test");
  demand(min_pass_rate <= max_pass_rate, "min-pass-rate is above max-pass-rate, want less");
  demand(hidden % heads == 0 && hidden / heads % 2 == 0, "hidden is ", hidden,
         ", want an even multiple of heads = ", heads);
  demand(heads % kv_heads == 0, "kv-heads is ", kv_heads, ", want a divisor of heads = ", heads);
}

void Config::validate_training() const {
  demand(!model.empty(), "model is empty, want the directory of the model to train: --model DIR");
  demand(temperature > 0, "temperature is 0, want more: a greedy sampler compares nothing");
  demand(top_p == 1,
         "top-p is below 1, training wants 1: the loss scores the whole distribution [T9]");
  demand(!compares_groups() || group_size > 1,
         "group-size is 1, want at least 2 responses to compare; or take ppo or reinforce");
  demand(!rewards_steps() || (baseline == Baseline::mean && !dynamic_sampling),
         "supervision is process, want baseline = mean, over all steps, and no dynamic-sampling");
  const bool reward_changes =
      kl == KlPlacement::reward || truncated == Truncated::penalise || truncated == Truncated::soft;
  demand(algorithm != Algorithm::rft || !reward_changes,
         "algorithm rft reads no rewards, want kl other than reward, truncated = keep or mask");
  demand(truncated != Truncated::soft || overlong_buffer <= max_response_tokens,
         "overlong-buffer is ", overlong_buffer,
         ", want at most max-response-tokens = ", max_response_tokens);
  demand(kept_accuracy_min <= kept_accuracy_max, "kept-accuracy-min is above kept-accuracy-max");
  const int64_t responses = prompts_per_step * group_size;
  const int64_t parts = std::max(mini_batches, has_own_critic() ? critic_mini_batches : 1);
  demand(parts <= responses, "mini-batches or critic-mini-batches is ", parts,
         ", want at most the ", responses, " responses of a step, prompts-per-step x group-size");
  demand(!dynamic_sampling || group_size > 1, "dynamic-sampling wants group-size of at least 2");
  demand(lora_rank == 0 || !has_shared_critic(), "lora-rank is ", lora_rank,
         " with critic shared, want 0: a value head is no adapter; or take critic = separate");
  demand(
      critic == CriticNetwork::separate || critic_warmup_steps == 0, "critic-warmup-steps is ",
      critic_warmup_steps,
      " with critic shared, want 0: its trunk learns no values alone; or take critic = separate");
}

}  // namespace tiny_zero
