"""The bugs that tests/mutants.py plants: file -> (name, old, new), an exact replacement of a text
that stands once in the file. Other trainers shipped most of them; a tag such as [T8] is a row of
the table of traps in tiny_zero/REFERENCES.md.
"""

# fmt: off
BUGS = {
    "tiny_zero/trainer.cpp": [
        ("reference scored at temperature 1 [T8]",
         "score_log_probs(*reference_, rollout, config_.temperature, tokens)",
         "score_log_probs(*reference_, rollout, 1.0, tokens)"),
        ("reference-every has no effect",
         "reference_ = policy_->model.clone(Head::language_model);  // [iterative GRPO]", ""),
        ("a moved reference is never saved [T17]",
         'if (reference_moved_) reference_->save(directory / "reference");', ""),
        ("critic-warmup-steps has no effect [T19]",
         "if (step_ >= config_.critic_only_steps()) {", "if (step_ >= 0) {"),
        ("the data cursor is not restored [T17]", 'cursor_ = checkpoint.count("cursor");', ""),
        ("the critic starts anew on --resume [T17]",
         'critic_ = Learner::load(checkpoint.path, "critic", Head::value, device_, config_);',
         "critic_.emplace(policy_->model.clone(Head::value), config_);"),
        ("the PRM scores before it learns",
         "if (config_.prime_score == PrimeScore::after_update) learn();\n"
         "    const torch::Tensor scored = score_log_probs(prm_->model, rollout, 1, tokens);",
         "const torch::Tensor scored = score_log_probs(prm_->model, rollout, 1, tokens);\n"
         "    if (config_.prime_score == PrimeScore::after_update) learn();"),
        ("the PRM's reference is what the policy is now",
         "score_log_probs(*prm_reference_,", "score_log_probs(policy_->model,"),
        ("the PRM starts anew on --resume [T17]",
         'prm_ =\n          Learner::load(checkpoint.path, "prm", Head::language_model, device_, '
         "prm_config(config_));",
         "prm_.emplace(policy_->model.clone(Head::language_model), prm_config(config_));"),
        ("truncated = mask has no effect [T16]",
         "loss_mask(rollout, config_.truncated)", "rollout.mask"),
    ],
    "tiny_zero/methods/prime.cpp": [
        ("the last token keeps its process reward", ".scatter(1, last, 0.0)", ""),
        ("process rewards are not scaled by the largest sum to come",
         "inner / (sum_to_come(inner).abs().max() + 1e-6)", "inner"),
        ("scaled by the largest process reward", "sum_to_come(inner).abs()", "inner.abs()"),
        ("the response's own mean is in its baseline",
         "(means.sum(/*dim=*/1, /*keepdim=*/true) - means)",
         "means.sum(/*dim=*/1, /*keepdim=*/true).expand({-1, others + 1}).contiguous()"),
        ("the PRM's weights decay", "own.weight_decay = 0;", ""),
        ("the PRM makes all the policy's passes", "own.epochs = 1;", ""),
        ("the PRM's loss is a mean over tokens", "own.aggregation = Aggregation::sequence;", ""),
    ],
    "tiny_zero/update.cpp": [
        ("the same shuffle in every step", "Stream::shuffle, step,", "Stream::shuffle, 0,"),
        ("the same shuffle in every epoch", "plan.first_shuffle + epoch)", "plan.first_shuffle)"),
        ("the same shuffle for both networks",
         "config.critic_mini_batches, /*first_shuffle=*/config.epochs,",
         "config.critic_mini_batches, /*first_shuffle=*/0,"),
        ("weights over the step instead of the mini-batch [T2]",
         "loss_weights(loss_mask.index_select(0, index), config.aggregation,\n"
         "                                      config.max_response_tokens);",
         "loss_weights(loss_mask, config.aggregation,\n"
         "                                      config.max_response_tokens).index_select(0, "
         "index);"),
        ("weights per micro-batch [T2]",
         "terms.start(batch.pick(weights));",
         "terms.start(batch.pick(weights_table(loss_mask, responses, config)));"),
        ("the rate is one update late",
         "plan.rate.at(learner.optimizer.updates)",
         "plan.rate.at(std::max<int64_t>(0, learner.optimizer.updates - 1))"),
        ("the schedule counts steps, not updates [T38]",
         "plan.rate.at(learner.optimizer.updates)", "plan.rate.at(step)"),
        ("epochs has no effect", "epoch < config.epochs;", "epoch < 1;"),
        ("mini-batches has no effect", 'plan{"policy", config.mini_batches,', 'plan{"policy", 1,'),
        ("critic-mini-batches has no effect",
         'plan{"critic", config.critic_mini_batches,', 'plan{"critic", config.mini_batches,'),
        ("metrics of the last mini-batch [T34]",
         "stats.means[name] += terms.mean(name);",
         "stats.means[name] = terms.mean(name) * static_cast<double>(stats.updates);"),
        ("entropy-coef has no effect", "entropies, -config.entropy_coef);", "entropies, 0);"),
        ("old log-probs are always the new ones: the ratio stays 1",
         "const bool on_policy = config.epochs == 1 && config.mini_batches == 1;",
         "const bool on_policy = true;"),
        ("on policy the ratio is 1 but for rounding [T11]",
         "const bool on_policy = config.epochs == 1 && config.mini_batches == 1;",
         "const bool on_policy = false;"),
        ("the KL in the loss is rewarded [T33]",
         "config.kl == KlPlacement::loss_k3 ? config.kl_coef : 0);",
         "config.kl == KlPlacement::loss_k3 ? -config.kl_coef : 0);"),
        ("k2 stands where k3 should",
         "kl_k3(log_probs, ref_log_probs)", "kl_k2(log_probs, ref_log_probs)"),
        ("value-coef has no effect",
         "                config.value_coef);", "                1.0);"),
        ("value-clip has no effect with critic = shared",
         "batch.pick(estimate.returns), config.value_clip),",
         "batch.pick(estimate.returns), 0.0),"),
        ("value-clip has no effect with critic = separate",
         "batch.pick(estimate.returns), config.value_clip));",
         "batch.pick(estimate.returns), 0.0));"),
        ("the critic learns the advantages [T14]",
         "batch.pick(estimate.returns), config.value_clip));",
         "batch.pick(estimate.advantages), config.value_clip));"),
        ("clip-low and clip-high are swapped",
         "policy_loss(log_probs, old_log_probs, advantages, config.clip_low, config.clip_high)",
         "policy_loss(log_probs, old_log_probs, advantages, config.clip_high, config.clip_low)"),
    ],
    "tiny_zero/learner.cpp": [
        ("max-grad-norm has no effect",
         "if (max_grad_norm_ > 0 && norm > max_grad_norm_) gradients.mul_(max_grad_norm_ / norm);",
         ""),
        ("weight-decay has no effect",
         "beta2_, weight_decay_, epsilon_,", "beta2_, 0.0, epsilon_,"),
        ("beta1 and beta2 are swapped",
         "learning_rate, beta1_, beta2_,", "learning_rate, beta2_, beta1_,"),
        ("the gradient is not zeroed",
         "gradients.zero_();\n"
         "  return norm;",
         "return norm;"),
        ("warmup-updates has no effect", "if (update < warmup_updates)", "if (false)"),
        ("final-learning-rate has no effect when linear",
         "return peak + (final - peak) * progress;", "return peak - peak * progress;"),
        ("the policy's schedule counts the critic's warm-up [T38]",
         "(config.num_steps - config.critic_only_steps())", "config.num_steps"),
        ("a critic rate of 0 means the policy's rate",
         "return {config.critic_learning_rate, ",
         "return {config.critic_learning_rate > 0 ? config.critic_learning_rate\n"
         "                                          : config.learning_rate, "),
        ("the number of updates is not restored [T17]",
         'optimizer.updates = stored.at("updates").item<int64_t>();', ""),
        ("Adam's moments are not restored [T17]", "tensor->copy_(stored.at(key));", ""),
    ],
    "tiny_zero/rollout.cpp": [
        ("the end token is masked out of the loss [T1]",
         "torch::arange(longest).unsqueeze(0) < torch::tensor(rollout.lengths).unsqueeze(1);",
         "torch::arange(longest).unsqueeze(0) < torch::tensor(rollout.lengths).unsqueeze(1);\n"
         "  for (int64_t i = 0; i < rollout.size(); ++i)\n"
         "    if (rollout.finished[i] && rollout.lengths[i] > 1)\n"
         "      rollout.mask[i][rollout.lengths[i] - 1] = false;"),
        ("seed has no effect on sampling", "random_uniform(options_.seed,", "random_uniform(0,"),
        ("decoding is one position ahead [T23]",
         "prompts[active[i] / group].size()) + t);",
         "prompts[active[i] / group].size()) + t + 1);"),
        ("finished responses get the truncation penalty",
         "Truncated::penalise && !rollout.finished[i]",
         "Truncated::penalise && rollout.finished[i]"),
        ("truncation-penalty has no effect [T16]",
         "rewards[i] = config.truncation_penalty;", "rewards[i] = 0;"),
        ("loss_mask writes into the rollout [T3]",
         "Tensor mask = rollout.mask.clone();", "Tensor mask = rollout.mask;"),
        ("response i is graded as if it answered prompt i % P [T29]",
         "task.grade(rollout.problem_of(i),",
         "task.grade(rollout.problems[i % rollout.problems.size()],"),
        ("dynamic sampling keeps everything",
         "if (config.dynamic_sampling) groups = mixed_groups(round);", ""),
        ("dynamic sampling keeps the equal groups",
         "if (!equal[p].item<bool>())", "if (equal[p].item<bool>())"),
        ("dynamic sampling looks at the unshaped rewards",
         "if (config.dynamic_sampling) groups = mixed_groups(round);",
         "if (config.dynamic_sampling) {\n"
         "      Rollout plain = round;\n"
         "      plain.rewards = round.rewards.clone();\n"
         "      for (int64_t i = 0; i < plain.size(); ++i)\n"
         "        plain.rewards[i] = plain.grades[i].reward;\n"
         "      groups = mixed_groups(plain);\n"
         "    }"),
        ("metrics over the kept groups only [T37]",
         "result.sampled.add(round);",
         "result.sampled.add(groups.empty() ? round : select_prompts(round, groups));"),
        ("accuracy counts the answered", "correct += grade.correct;", "correct += grade.answered;"),
    ],
    "tiny_zero/scoring.cpp": [
        ("logits are read one position late [T23]",
         "positions.push_back(offset + prompt - 1 + t);",
         "positions.push_back(offset + prompt - 1 + std::min(t + 1, rollout.lengths[i] - 1));"),
        ("response i is scored after prompt i % P [T29]",
         "auto sequence = rollout.prompt_of(i);",
         "auto sequence = rollout.prompts[i % rollout.prompts.size()];"),
    ],
    "tiny_zero/advantage.cpp": [
        ("the reward falls on the padding [T15]",
         "mask.sum(/*dim=*/1, /*keepdim=*/true) - 1;",
         "torch::full({mask.size(0), 1}, mask.size(1) - 1, torch::kInt64);"),
        ("the KL in the reward is rewarded [T33]", "result - kl_coef *", "result + kl_coef *"),
        ("the KL is left out of the reward", "log_ratio.defined() ? result -", "false ? result -"),
        ("groups are keyed by i % G [T29]",
         "rewards.view({-1, group_size});", "rewards.view({group_size, -1}).t().contiguous();"),
        ("baseline has no effect", "if (baseline == Baseline::leave_one_out &&", "if (false &&"),
        ("sample and population are swapped [T5]",
         "deviation == GroupStd::sample ?", "deviation == GroupStd::population ?"),
        ("group-std none divides all the same [T7]",
         "if (deviation != GroupStd::none) {", "if (true) {"),
        ("group-epsilon has no effect [T5]", ".sqrt() + epsilon);", ".sqrt());"),
        ("equal rewards leave rounding noise [T5]",
         "torch::where((groups == groups.select(1, 0).unsqueeze(1)).all(1, "
         "/*keepdim=*/true), 0.0,\n"
         "                   groups - groups.mean(/*dim=*/1, /*keepdim=*/true));",
         "groups - groups.mean(/*dim=*/1, /*keepdim=*/true);"),
        ("the variance is E[x^2] - E[x]^2 [T6]",
         "centred.square().sum(/*dim=*/1, /*keepdim=*/true) / n",
         "(groups.square().sum(1, true) - group_size * groups.mean(1, "
         "true).square()).clamp_min(0) / n"),
        ("lambda in place of gamma", "+ gamma * next_value", "+ lambda * next_value"),
        ("lambda has no effect", "delta + gamma * lambda * next", "delta + gamma * next"),
        ("the padding's values reach the last token [T14]",
         "const Tensor known = torch::where(mask, values, 0.0);", "const Tensor known = values;"),
        ("returns are the advantages",
         "torch::where(mask, advantages + known, 0.0)}", "advantages}"),
        ("whitening is left out [T18]",
         "config.whiten ? whiten(gae.advantages, loss_mask) : gae.advantages", "gae.advantages"),
        ("whitened with the padding [T18]",
         "x.masked_select(mask).to(torch::kFloat64);\n"
         "  const Tensor mean",
         "x.flatten().to(torch::kFloat64);\n"
         "  const Tensor mean"),
        ("explained variance is reversed",
         "1 - variance(returns - values) / total", "variance(returns - values) / total"),
        ("explained variance of rounding noise [T39]",
         "total > 1e-10 * size * size ?", "total > 0 ?"),
        ("the KL joins the reward before the division [T36]",
         "group_advantages(rewards, config.group_size,",
         "group_advantages(log_ratio.defined() ? rewards - config.kl_coef * (log_ratio * "
         "mask).sum(1)\n"
         "                              : rewards, config.group_size,"),
    ],
    "tiny_zero/loss.cpp": [
        ("the clip has no effect",
         "-torch::min(ratio * advantages, clipped * advantages)", "-(ratio * advantages)"),
        ("the log-ratio of the KL is reversed",
         "(ref_log_probs - log_probs).clamp", "(log_probs - ref_log_probs).clamp"),
        ("the KL overflows [T13]", ".clamp(-20.0, 20.0)", ""),
        ("aggregation = sequence is a mean over tokens [T7]",
         "mask / lengths.clamp_min(1) / responses", "mask / lengths.sum().clamp_min(1)"),
        ("masked responses count in the mean over responses [T16]",
         "(lengths > 0).sum().clamp_min(1)", "(lengths >= 0).sum().clamp_min(1)"),
        ("metrics of the last micro-batch [T34]",
         "running.defined() ? running + term.detach() : term.detach()", "term.detach()"),
    ],
    "tiny_zero/metrics.cpp": [
        ("lr logs the critic's rate",
         'line["lr"] = stats.policy.learning_rate;', 'line["lr"] = stats.critic.learning_rate;'),
    ],
    "tiny_zero/files/run_directory.cpp": [
        ("the logs are not cut on --resume [T17]",
         'fs::resize_file(path_ / log, checkpoint_.log_bytes(log));', ";"),
    ],
    "tiny_zero/model.cpp": [
        ("log-probs are scored at temperature 1 [T8]",
         "targets, temperature, config_.used_vocab_size, with_entropy);",
         "targets, 1.0, config_.used_vocab_size, with_entropy);"),
        ("padded rows of the vocabulary are sampled [T22]",
         "head_logits(hidden, head_weight(), config_.used_vocab_size);  // (B, V)",
         "head_logits(hidden, head_weight(), config_.vocab_size);"),
        ("cache positions run on from prompt to prompt [T23]",
         "positions.push_back(i - prompts.starts[s]);",
         "positions.push_back(i - prompts.starts[s] + (s > 0));"),
        ("copies of a prompt go to rows of others [T29]",
         "static_cast<int64_t>(s) * copies + copy",
         "copy * (static_cast<int64_t>(prompts.starts.size()) - 1) + static_cast<int64_t>(s)"),
        ("the value is that of the state after the token",
         "hidden.index_select(0, positions).to(torch::kFloat32);  // (M, d)",
         "hidden.index_select(0, (positions + 1).clamp_max(hidden.size(0) - 1));"),
        ("weight matrices are read transposed",
         "    tensor.copy_(stored.at(name));\n",
         "    const Tensor& read = stored.at(name);\n"
         "    tensor.copy_(read.dim() == 2 ? read.t().reshape(tensor.sizes()) : read);\n"),
    ],
    "tiny_zero/kernels/reference.cpp": [
        ("the sampler's log-probs are those of temperature 1 [T8]",
         ".clamp_max(logits.size(1) - 1);\n"
         "  return {ids.squeeze(1), log_probs.gather",
         ".clamp_max(logits.size(1) - 1);\n"
         "  return {ids.squeeze(1), torch::log_softmax(logits, -1).gather"),
    ],
    "tiny_zero/kernels/log_probs.cpp": [
        ("the entropy is -log p of the sampled token [T32]",
         "copy_(-(log_p.exp() * log_p).sum(-1))", "copy_(-log_p.gather(1, target).squeeze(1))"),
    ],
    "tiny_zero/kernels/packed_attention.cpp": [
        ("a token attends to the next one",
         "const int64_t seen = first + i + 1;\n    const auto",
         "const int64_t seen = std::min(first + i + 2, padded);\n    const auto"),
    ],
    "tiny_zero/kernels/cached_attention.cpp": [
        ("the cache is read one position late [T23]",
         "float* key = keys + position / kLanes * kLanes * dim + position % kLanes;",
         "float* key = keys + position / kLanes * kLanes * dim + (position + 1) % kLanes;"),
    ],
    "tiny_zero/kernels/vec.h": [
        ("rope turns neighbours, not halves",
         "const float x = from[i], y = from[i + half];\n"
         "    to[i] = x * c - y * s;\n"
         "    to[i + half] = y * c + x * s;",
         "const float x = from[2 * i], y = from[2 * i + 1];\n"
         "    to[2 * i] = x * c - y * s;\n"
         "    to[2 * i + 1] = y * c + x * s;"),
    ],
    "tiny_zero/settings/config.cpp": [
        ("training accepts top-p below 1 [T9]", "demand(top_p == 1,", "demand(top_p <= 1,"),
    ],
    "tiny_zero/verbs/sft.cpp": [
        ("sft learns no end token [T1]",
         "if (example.ids.back() != shape.end_ids[0])", "if (false)"),
        ("each micro-batch of sft takes its own mean [T2]",
         "static_cast<double>(batch.response_tokens())",
         "static_cast<double>(part.targets.numel())"),
        ("every epoch of sft has the order of the first",
         "epoch_shuffled(i, ", "epoch_shuffled(i % std::ssize(examples), "),
    ],
    "tiny_zero/verbs/next_token.cpp": [
        ("next-token training repeats its data on --resume [T17]",
         'cursor = checkpoint.count("cursor");', ""),
        ("a resumed sft takes any data", 'if (checkpoint.state.value("data", "") != data)',
         "if (false)"),
    ],
    "tiny_zero/methods/pass_rates.cpp": [
        ("the limits of the pass rate are excluded",
         "rate >= config.min_pass_rate && rate <= config.max_pass_rate",
         "rate > config.min_pass_rate && rate < config.max_pass_rate"),
        ("pass rates of other problems are taken",
         'fields["gold"].text() != problem.gold)', "false)"),
    ],
    "tiny_zero/verbs/evaluate.cpp": [
        ("pass@k is off by one",
         "int64_t i = n - c + 1; i <= n;", "int64_t i = n - c + 2; i <= n;"),
        ("maj@k takes the first sample",
         "const int64_t winner = majority(task, answers);", "const int64_t winner = 0;"),
        ("eval reads the training split",
         'config.split == "train" ? Split::train : Split::test', "Split::train"),
        ("greedy responses are sampled at temperature 1",
         "run(/*temperature=*/0.0, 1,", "run(/*temperature=*/1.0, 1,"),
    ],
    "tasks/countdown/expression.cpp": [
        ("a number used twice, or left out, is accepted",
         "!std::is_permutation(used.begin(), used.end(), numbers.begin(), numbers.end())",
         "!std::all_of(used.begin(), used.end(), [&](int64_t x) {\n"
         "        return std::find(numbers.begin(), numbers.end(), x) != numbers.end();\n"
         "      })"),
        ("the quotient is rounded down to the target [T26]",
         "expression.value == Rational{target, 1} ?",
         "expression.value.den != 0 && expression.value.num / expression.value.den == target ?"),
    ],
    "tasks/last_answer.h": [
        ("the first answer counts [T27]",
         "answer = response.substr(start, at - start);",
         "if (!answer) answer = response.substr(start, at - start);"),
    ],
    "tasks/countdown/countdown.cpp": [
        ("train and test are split by the target too [T40]",
         "const uint64_t key = split_key(puzzle.numbers);",
         "const uint64_t key = mix_bits(split_key(puzzle.numbers) + "
         "static_cast<uint64_t>(puzzle.target));"),
    ],
    "tasks/math/equivalence.cpp": [
        ("a right answer among wrong ones is accepted",
         "if (a.size() != b.size()) return false;", "if (a.size() > b.size()) return false;"),
        ("a rounded answer is accepted", "kTolerance = 1e-14L,", "kTolerance = 1e-3L,"),
    ],
    "tasks/math/math.cpp": [
        ("a gold answer that cannot be read stays [T28]",
         "if (!readable(row.answer)) {", "if (false) {"),
    ],
    "tiny_zero/files/tokenizer.cpp": [
        ("merges run from the last to the first",
         "merge.rank > other.merge.rank :", "merge.rank < other.merge.rank :"),
    ],
    "tiny_zero/files/safetensors.cpp": [
        ("shapes are written transposed",
         '{"shape", tensor.sizes().vec()}',
         '{"shape", std::vector<int64_t>(tensor.sizes().rbegin(), tensor.sizes().rend())}'),
    ],
}
# fmt: on
MUTANTS = [(name, file, old, new) for file, bugs in BUGS.items() for name, old, new in bugs]

# Why a bug may survive: name -> reason, for the table.
ARGUED = {}
