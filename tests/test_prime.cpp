#include <doctest/doctest.h>

#include <cmath>

#include "tiny_zero/advantage.h"
#include "tiny_zero/methods/prime.h"
#include "tiny_zero/metrics.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/update.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kEverything = 1 << 20, kOneResponse = 1;  // tokens_per_micro_batch

Model tiny_model(uint64_t seed, int64_t vocab_size = 12) {
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = vocab_size;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.attention = {2, 2, 16};
  config.ffn_size = 64;
  config.max_positions = 64;
  config.end_ids = {0};
  Model model(config, Head::language_model, seed, torch::kCPU);
  model.parameters().mul_(3.0);
  return model;
}

Config prime_config() {
  Config config;
  config.algorithm = Algorithm::prime;
  config.max_response_tokens = 8;
  config.tokens_per_micro_batch = kEverything;
  return config;
}

/// Three responses of 3, 1 and 2 tokens; the third is wrong.
Rollout rollout_by_hand() {
  Rollout rollout;
  rollout.prompts = {{1, 2, 3}, {4, 5}, {6}};
  rollout.response_ids = torch::tensor({{7, 4, 0}, {0, 0, 0}, {5, 3, 0}}, torch::kInt64);
  rollout.lengths = {3, 1, 2};
  rollout.finished = {true, true, false};
  rollout.mask = torch::tensor({{1, 1, 1}, {1, 0, 0}, {1, 1, 0}}).to(torch::kBool);
  rollout.log_probs = torch::zeros({3, 3});
  rollout.grades.resize(3);
  rollout.grades[0].correct = rollout.grades[1].correct = true;
  return rollout;
}

/// Log-probs of the reference that give the responses sums of ln 3, -ln 3 and -ln 3, all of it on
/// the last tokens.
Tensor reference_by_hand(const Model& prm, const Rollout& rollout, double beta) {
  Tensor reference = score_log_probs(prm, rollout, /*temperature=*/1, kEverything);
  const double step = std::log(3.0) / beta;
  reference[0][2] -= step;
  reference[1][0] += step;
  reference[2][1] += step;
  return reference;
}

bool close(const Tensor& x, const Tensor& expected, double atol = 1e-6) {
  return torch::allclose(x, expected, /*rtol=*/1e-4, atol);
}

}  // namespace

TEST_CASE("process rewards by hand: the last token's is 0, the largest sum to come is 1 [PRIME]") {
  const Tensor mask = torch::tensor({{1, 1, 1}, {1, 1, 0}, {1, 0, 0}}).to(torch::kBool);
  const Tensor ratio = torch::tensor({{2.F, -1.F, 4.F}, {-3.F, 1.F, kNan}, {5.F, kNan, 9.F}});
  const Tensor rewards = implicit_rewards(ratio - 7, torch::full({3, 3}, -7.F), /*beta=*/0.5);
  CHECK(torch::allclose(rewards, ratio / 2, 1e-5, 1e-6, /*equal_nan=*/true));
  // Without the last tokens 1, -0.5, 0 and -1.5, 0 and 0. Sums to come 0.5, -0.5, 0; -1.5, 0; 0.
  // With the last ones the largest would be 2.5.
  const Tensor wanted =
      torch::tensor({{.666667F, -.333333F, 0.F}, {-1.F, 0.F, 0.F}, {0.F, 0.F, 0.F}});
  CHECK(close(process_rewards(rewards, mask), wanted, 2e-6));
  // Where nothing but rounding is left it stays small: 1e-6 / (1e-6 + 1e-6)
  const Tensor tiny = torch::full({1, 2}, 1e-6F);
  CHECK(close(process_rewards(tiny, torch::ones({1, 2}).to(torch::kBool)),
              torch::tensor({{.5F, 0.F}})));
  CHECK_THROWS_AS(implicit_rewards(ratio, torch::zeros({2, 3}), 1), c10::Error);
}

TEST_CASE("prime_advantages by hand: leave-one-out apart, sums to come, the two weights [PRIME]") {
  Config config = prime_config();
  config.group_size = 3;
  config.prime_process_weight = 2;
  config.prime_outcome_weight = 4;
  config.kl_coef = 0.1;
  // The first group has 3, 2 and 1 tokens; in the second nothing differs.
  const Tensor lengths = torch::tensor({3, 2, 1, 3, 3, 3}).unsqueeze(1);
  const Tensor mask = torch::arange(3).unsqueeze(0) < lengths;
  Tensor process = torch::zeros({6, 3});
  process[0] = torch::tensor({.6F, .3F, 0.F});
  process[1][0] = -.5F;
  const Tensor outcomes = torch::tensor({1.F, 0.F, 0.F, 1.F, 1.F, 1.F});
  // Means over tokens 0.3, -0.25, 0; means of the others -0.125, 0.15, 0.025. What is left of r,
  // 0.725 0.425 0.125; -0.65 -0.15; -0.025, sums to 1.275 0.55 0.125; -0.8 -0.15; -0.025 to come.
  // The outcomes less the others' means are 1, -0.5 and -0.5. Twice the one, four times the other:
  Tensor wanted = torch::zeros({6, 3});
  wanted[0] = torch::tensor({6.55F, 5.1F, 4.25F});
  wanted[1] = torch::tensor({-3.6F, -2.3F, 0.F});
  wanted[2][0] = -2.05F;
  CHECK(close(prime_advantages(process, outcomes, mask, {}, config), wanted));
  // A KL of 1 nat for each token: 0.1 for each that is to come
  const Tensor to_come = (lengths - torch::arange(3).unsqueeze(0)) * mask;
  CHECK(close(prime_advantages(process, outcomes, mask, torch::ones({6, 3}), config),
              wanted - 0.1 * to_come));

  // Whitened, only the ratio of the weights counts; otherwise their size does.
  Rollout rollout;
  rollout.mask = mask;
  Judgement judgement{outcomes, mask, {}, {}};
  judgement.process_rewards = process;
  const auto advantages = [&](double weight, bool whiten) {
    config.prime_process_weight = weight;
    config.prime_outcome_weight = 2 * weight;
    config.whiten = whiten;
    return estimate_advantages(rollout, judgement, config).advantages;
  };
  CHECK(close(advantages(2, false), wanted));
  CHECK(close(advantages(1, false), wanted / 2));
  CHECK(close(advantages(1, true), whiten(wanted, mask)));
  CHECK(close(advantages(2, true), advantages(1, true)));
}

TEST_CASE("prm_loss by hand") {
  // sigmoid 1/2, 3/4, 1/4: -ln of it if right, of one less it if not
  const float three = std::log(3.F);
  CHECK(close(
      prm_loss(torch::tensor({0.F, three, -three, three}), torch::tensor({1.F, 1.F, 1.F, 0.F})),
      torch::tensor({.693147F, .287682F, 1.386294F, 1.386294F})));
}

TEST_CASE("the PRM's settings are its own, at the same fraction of the schedule [PRIME]") {
  Config config = prime_config();
  config.learning_rate = 1e-3;
  config.final_learning_rate = 1e-4;
  config.prime_learning_rate = 5e-3;
  config.weight_decay = 0.1;
  config.epochs = 3;
  config.mini_batches = 4;
  const Config own = prm_config(config);
  CHECK(own.learning_rate == 5e-3);
  CHECK(own.final_learning_rate == doctest::Approx(5e-4));
  CHECK(own.weight_decay == 0);
  CHECK(own.max_grad_norm == 10);
  CHECK(policy_learning_rate(own).total_updates == 4 * config.num_steps);  // one pass
}

TEST_CASE("update_prm: loss and accuracy by hand, in however many micro-batches [PRIME, T2]") {
  const Rollout rollout = rollout_by_hand();
  Config config = prime_config();
  config.epochs = 2;  // of the policy
  config.temperature = 0.5;
  Tensor gradients[2];
  for (const int64_t tokens : {kEverything, kOneResponse}) {
    config.tokens_per_micro_batch = tokens;
    Learner prm(tiny_model(1), prm_config(config));
    const Tensor reference = reference_by_hand(prm.model, rollout, config.prime_beta);
    const UpdateStats stats = update_prm(prm, rollout, reference, config, /*step=*/0);
    // ln 4/3 for the first and the third, ln 4 for the second, which it takes for wrong
    CHECK(stats.means.at("prm_loss") == doctest::Approx(0.653886).epsilon(1e-5));
    CHECK(stats.means.at("prm_accuracy") == doctest::Approx(2.0 / 3.0));
    CHECK(stats.updates == 1);
    gradients[tokens == kOneResponse] = prm.optimizer.mean.clone();
  }
  CHECK(gradients[0].norm().item<double>() > 1e-4);
  CHECK(close(gradients[1], gradients[0], 1e-8));
}

TEST_CASE("update_prm learns which responses are right, and leaves a loss that is not finite") {
  const Rollout rollout = rollout_by_hand();
  Config config = prime_config();
  config.prime_learning_rate = 1e-3;
  Learner prm(tiny_model(1), prm_config(config));
  Tensor reference = score_log_probs(prm.model, rollout, 1, kEverything);
  UpdateStats stats = update_prm(prm, rollout, reference, config, /*step=*/0);
  CHECK(stats.means.at("prm_loss") == doctest::Approx(std::log(2)));  // no sum differs from 0 yet
  for (int64_t step = 1; step < 60; ++step)
    stats = update_prm(prm, rollout, reference, config, step);
  CHECK(stats.means.at("prm_loss") < 0.5);
  CHECK(stats.means.at("prm_accuracy") == 1);
  const Tensor before = prm.model.parameters().clone();
  reference[0][0] = kNan;
  CHECK(update_prm(prm, rollout, reference, config, 60).skipped == "prm_loss");
  CHECK(torch::equal(prm.model.parameters(), before));
  StepStats step;  // what the PRM spoilt is reported as its own, not as the policy's
  step.policy.skipped = "policy_loss";
  step.prm.skipped = "prm_loss";
  CHECK(step.skipped() == "prm_loss");
}

TEST_CASE("a three-token policy learns from process rewards alone [PRIME]") {
  Config config = prime_config();
  config.group_size = 16;
  config.prime_outcome_weight = 0;
  config.learning_rate = config.prime_learning_rate = 3e-3;
  const Model start = tiny_model(4, /*vocab_size=*/3);
  Learner policy(start.clone(Head::language_model), config);
  Learner prm(start.clone(Head::language_model), prm_config(config));
  Sampler sampler(policy.model, {/*temperature=*/1.0, /*top_p=*/1.0, /*max_response_tokens=*/2,
                                 /*batch=*/64, /*seed=*/0});
  const auto share_right = [](const Rollout& rollout) {
    return right_responses(rollout).mean().item<double>();
  };
  double first = 0, last = 0;
  for (int64_t step = 0; step < 60; ++step) {
    Rollout rollout = sampler.sample({{1}}, /*group_size=*/16, /*call=*/step);
    for (int64_t i = 0; i < rollout.size(); ++i) {  // right: 1 first, then anything
      Grade grade;
      grade.correct = rollout.response_ids[i][0].item<int64_t>() == 1 && rollout.lengths[i] == 2;
      rollout.grades.push_back(grade);
    }
    const Tensor reference = score_log_probs(start, rollout, 1, kEverything);
    update_prm(prm, rollout, reference, config, step);
    Judgement judgement{right_responses(rollout), rollout.mask, {}, {}};
    judgement.process_rewards =
        process_rewards(implicit_rewards(score_log_probs(prm.model, rollout, 1, kEverything),
                                         reference, config.prime_beta),
                        rollout.mask);
    update_policy(policy, rollout, judgement, estimate_advantages(rollout, judgement, config),
                  config, step);
    (step == 0 ? first : last) = share_right(rollout);
  }
  CAPTURE(first);
  CHECK(first < 0.7);
  CHECK(last > 0.95);
}
