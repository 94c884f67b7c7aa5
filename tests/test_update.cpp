#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "tiny_zero/advantage.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/update.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kEnd =
    0;  // ends a response and also pads response_ids, as tempts one to mask by id [T1]
constexpr int64_t kEverything = 1 << 20, kOneResponse = 1;  // tokens_per_micro_batch

/// A random model whose weights are large enough for its distributions to be far from uniform.
Model tiny_model(uint64_t seed, Head head = Head::language_model, int64_t vocab_size = 12) {
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = vocab_size;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.attention = {2, 2, 16};
  config.ffn_size = 64;
  config.max_positions = 64;
  config.end_ids = {kEnd};
  Model model(config, head, seed, torch::kCPU);
  model.parameters().mul_(3.0);
  return model;
}

Config plain_config() {
  Config config;
  config.max_grad_norm = 0;
  config.max_response_tokens = 8;
  config.tokens_per_micro_batch = kEverything;
  return config;
}

Rollout sample(const Model& policy, double temperature = 1.0, int64_t call = 0) {
  Sampler sampler(
      policy, {temperature, /*top_p=*/1.0, /*max_response_tokens=*/8, /*batch=*/512, /*seed=*/1});
  Rollout rollout = sampler.sample({{1, 2, 3}, {4, 5}, {6}, {7, 3, 2, 1}}, /*group_size=*/8, call);
  rollout.rewards = torch::zeros({rollout.size()});
  return rollout;
}

/// Three responses of 3, 1 and 2 tokens; the second is nothing but the end token.
Rollout rollout_by_hand() {
  Rollout rollout;
  rollout.prompts = {{1, 2, 3}, {4, 5}, {6}};
  rollout.response_ids = torch::tensor({{7, 4, 0}, {0, 0, 0}, {5, 3, 0}}, torch::kInt64);
  rollout.lengths = {3, 1, 2};
  rollout.finished = {true, true, false};
  rollout.mask = torch::tensor({{1, 1, 1}, {1, 0, 0}, {1, 1, 0}}).to(torch::kBool);
  rollout.log_probs = torch::zeros({3, 3});
  rollout.rewards = torch::zeros({3});
  return rollout;
}

/// What the losses need beside the rollout.
struct Experience {
  Tensor advantages, ref_log_probs, values, returns, loss_mask, old_log_probs = {};
};

Experience experience_of(const Rollout& rollout, const Tensor& advantages) {
  return {advantages, Tensor(), Tensor(), Tensor(), rollout.mask};
}

UpdateStats update(Learner& policy, const Rollout& rollout, const Experience& e,
                   const Config& config, int64_t step = 0) {
  return update_policy(
      policy, rollout,
      {rollout.rewards, e.loss_mask, e.ref_log_probs, e.values, {}, e.old_log_probs},
      {e.advantages, e.returns}, config, step);
}

UpdateStats update_values(Learner& critic, const Rollout& rollout, const Experience& e,
                          const Config& config, int64_t step = 0) {
  return update_critic(critic, rollout, {rollout.rewards, e.loss_mask, e.ref_log_probs, e.values},
                       {e.advantages, e.returns}, config, step);
}

/// Advantages that differ from token to token, of both signs.
Tensor some_advantages(const Rollout& rollout) {
  return torch::sin(torch::arange(rollout.mask.numel(), torch::kFloat32))
      .view(rollout.mask.sizes());
}

Experience some_experience(const Rollout& rollout) {
  return experience_of(rollout, some_advantages(rollout));
}

struct Step {
  UpdateStats stats;
  Tensor gradient;  // of the only update: after it Adam's mean is (1 - beta1) g
};

/// update_policy() with a fresh optimiser; at this rate no float32 weight moves.
Step step_of(Model& policy, const Rollout& rollout, const Experience& experience, Config config,
             double rate = 1e-30) {
  config.learning_rate = rate;
  Learner learner(policy, config);  // the copy shares the weights
  const UpdateStats stats = update(learner, rollout, experience, config);
  return {stats, learner.optimizer.mean / (1 - config.beta1)};
}

/// log pi of every token of the vocabulary at every response position, (N, V).
Tensor full_log_probs(const Model& model, const Rollout& rollout) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> all(rollout.size());
  std::iota(all.begin(), all.end(), int64_t{0});
  const ScoringBatch batch = make_scoring_batch(rollout, all, model);
  const Tensor hidden = model.hidden_states(batch.tokens);
  std::vector<Tensor> columns;
  for (int64_t v = 0; v < model.config().used_vocab_size; ++v) {
    columns.push_back(
        model.log_probs(hidden, batch.positions, torch::full_like(batch.targets, v), 1.0, false)
            .log_probs);
  }
  return torch::stack(columns, /*dim=*/1);
}

double exact_kl(const Model& policy, const Model& reference, const Rollout& rollout) {
  const Tensor p = full_log_probs(policy, rollout), q = full_log_probs(reference, rollout);
  return (p.exp() * (p - q)).sum(/*dim=*/1).mean().item<double>();
}

double exact_entropy(const Model& policy, const Rollout& rollout) {
  const Tensor p = full_log_probs(policy, rollout);
  return -(p.exp() * p).sum(/*dim=*/1).mean().item<double>();
}

bool close(const Tensor& x, const Tensor& expected, double atol = 1e-6) {
  return torch::allclose(x, expected, /*rtol=*/1e-4, atol);
}

}  // namespace

TEST_CASE("update_policy: gradient and metrics do not change with the micro-batches [T2, T34]") {
  Model policy = tiny_model(1, Head::both), reference = tiny_model(2);
  const Rollout rollout = sample(policy);
  Experience experience = some_experience(rollout);
  experience.ref_log_probs = score_log_probs(reference, rollout, 1.0, kEverything);
  experience.values = torch::zeros_like(rollout.log_probs);
  experience.returns = some_advantages(rollout) + 1;
  Config config = plain_config();
  config.algorithm = Algorithm::ppo;
  config.critic = CriticNetwork::shared;
  config.entropy_coef = 0.01;
  config.kl = KlPlacement::loss_k3;
  config.kl_coef = 0.1;
  for (const auto aggregation :
       {Aggregation::token, Aggregation::sequence, Aggregation::constant}) {
    config.aggregation = aggregation;
    config.tokens_per_micro_batch = kEverything;
    const Step whole = step_of(policy, rollout, experience, config);
    config.tokens_per_micro_batch = kOneResponse;
    const Step split = step_of(policy, rollout, experience, config);
    CHECK(whole.gradient.norm().item<double>() > 1e-3);
    CHECK(close(split.gradient, whole.gradient));
    CHECK(split.stats.means.at("policy_loss") ==
          doctest::Approx(whole.stats.means.at("policy_loss")).epsilon(1e-4));
    CHECK(split.stats.means.at("value_loss") ==
          doctest::Approx(whole.stats.means.at("value_loss")).epsilon(1e-4));
    CHECK(split.stats.means.at("kl") == doctest::Approx(whole.stats.means.at("kl")).epsilon(1e-4));
    CHECK(split.stats.means.at("entropy") ==
          doctest::Approx(whole.stats.means.at("entropy")).epsilon(1e-4));
    if (aggregation != Aggregation::sequence) {  // which weighs the tokens of short responses more
      const double exact = exact_entropy(policy, rollout);  // not -log p [T32]
      CHECK(split.stats.means.at("entropy") == doctest::Approx(exact).epsilon(1e-4));
    }
    CHECK(split.stats.tokens == whole.stats.tokens);
  }
}

TEST_CASE(
    "update_policy: every response is in one mini-batch of each pass, and means are over all "
    "passes") {
  Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  Config config = plain_config();
  config.aggregation =
      Aggregation::sequence;  // mini-batches of equal size: the mean of their means
  const UpdateStats once = step_of(policy, rollout, some_experience(rollout), config).stats;
  config.epochs = 2;
  config.mini_batches = 4;
  const UpdateStats often = step_of(policy, rollout, some_experience(rollout), config).stats;
  CHECK(often.tokens == 2 * once.tokens);
  CHECK(often.means.at("entropy") == doctest::Approx(once.means.at("entropy")).epsilon(1e-4));
}

TEST_CASE("mini-batches: each weighs 1, and step, pass and network have splits of their own") {
  Model policy = tiny_model(1), critic = tiny_model(1, Head::value);
  const Rollout rollout = sample(policy);
  Config config = plain_config();
  config.learning_rate = config.critic_learning_rate = 0;
  config.epochs = 2;
  config.mini_batches = 4;
  config.critic_mini_batches = 2;
  const Tensor zeros = torch::zeros_like(rollout.log_probs), ones = torch::ones_like(zeros);
  const Judgement judgement{rollout.rewards, rollout.mask, {}, zeros};
  Learner actor(policy, config), judge(critic, config);
  std::vector<Tensor> halves;  // (B,) for each step, pass and network: in which half a response is
  for (const int64_t step : {0, 1}) {
    StepDump dump;
    update_policy(actor, rollout, judgement, {ones, ones}, config, step, &dump);
    update_critic(judge, rollout, judgement, {ones, ones}, config, step, &dump);
    const auto loss = [&](const std::string& of) { return dump.table(of, zeros).item<float>(); };
    for (const std::string u : {"0", "1", "2", "3", "4", "5", "6", "7"})
      CHECK(loss("policy." + u + ".loss.policy_loss") == doctest::Approx(-1).epsilon(1e-3));
    for (const std::string u : {"0", "1", "2", "3"})
      CHECK(loss("critic." + u + ".loss.value_loss") == doctest::Approx(0.5));
    const Tensor four = dump.table("policy_update_of", zeros),
                 two = dump.table("critic_update_of", zeros);
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      CHECK(torch::equal(four[epoch].bincount(), torch::full({4}, 8, torch::kInt64)));
      CHECK(torch::equal(two[epoch].bincount(), torch::full({2}, 16, torch::kInt64)));
      halves.push_back((four[epoch] >= 2).to(torch::kInt64));
      halves.push_back(two[epoch]);
    }
  }
  const Tensor unshuffled = torch::arange(32).floor_divide(16);
  for (size_t i = 0; i < halves.size(); ++i) {
    CAPTURE(i);
    CHECK_FALSE(torch::equal(halves[i], unshuffled));
    for (size_t j = 0; j < i; ++j) CHECK_FALSE(torch::equal(halves[i], halves[j]));
  }
}

TEST_CASE("update_policy: stats equal hand-worked numbers") {
  Model policy = tiny_model(1);
  Rollout rollout = rollout_by_hand();
  const Tensor now = score_log_probs(policy, rollout, 1.0, kEverything);
  // Padding is poisoned. On policy the loss is minus the mean of 1, 2, 3, 4, -2, 6, whatever the
  // sampler said [T25].
  Experience experience = experience_of(
      rollout, torch::tensor({{1.0F, 2.0F, 3.0F}, {4.0F, kNan, kNan}, {-2.0F, 6.0F, kNan}}));
  experience.ref_log_probs = now - std::log(2.0);  // k3 = 1/2 + ln 2 - 1 everywhere
  rollout.log_probs = now - std::log(1.5);
  Config config = plain_config();
  const UpdateStats on_policy = step_of(policy, rollout, experience, config).stats;
  CHECK(on_policy.means.at("policy_loss") == doctest::Approx(-14.0 / 6.0));
  CHECK(on_policy.means.at("kl") == doctest::Approx(0.193147).epsilon(1e-4));
  CHECK(on_policy.means.at("clip_fraction") == 0);
  CHECK(on_policy.ratio_max_deviation == doctest::Approx(0.5).epsilon(1e-4));
  CHECK(on_policy.means.at("log_prob_gap_mean") ==
        doctest::Approx(0.405465).epsilon(1e-4));  // ln 1.5
  CHECK(on_policy.tokens ==
        9);  // 3 + 2, 2 + 0, 1 + 1: the last token of a response predicts nothing
  // Two passes: the ratio is 1.5, clipped to 1.2 but for the negative advantage. -(1.2 * 16 - 1.5 *
  // 2) / 6 = -2.7
  config.epochs = 2;
  const UpdateStats off_policy = step_of(policy, rollout, experience, config).stats;
  CHECK(off_policy.means.at("policy_loss") == doctest::Approx(-2.7).epsilon(1e-4));
  CHECK(off_policy.means.at("clip_fraction") == doctest::Approx(5.0 / 6.0));
  CHECK(off_policy.means.at("kl") == doctest::Approx(0.193147).epsilon(1e-4));
  config.clip_low = 0.1;
  config.clip_high = 0.3;  // -(1.3 * 16 - 1.5 * 2) / 6
  CHECK(step_of(policy, rollout, experience, config).stats.means.at("policy_loss") ==
        doctest::Approx(-17.8 / 6).epsilon(1e-4));
}

TEST_CASE("update_policy: on policy the ratio is 1 to the last bit, in any micro-batch [T11]") {
  Model policy = tiny_model(1);
  Rollout rollout = sample(policy);
  rollout.log_probs =
      rollout.log_probs + 0.3;  // a sampler that rounds differently, much exaggerated
  Config config = plain_config();
  config.clip_low = config.clip_high = 0;  // any other ratio would be clipped
  config.tokens_per_micro_batch = 40;
  const Step step = step_of(policy, rollout, some_experience(rollout), config);
  CHECK(step.stats.means.at("clip_fraction") == 0);
  CHECK(step.gradient.norm().item<double>() > 1e-3);
}

TEST_CASE("update_policy: a large rate makes later mini-batches clip") {
  Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  Config config = plain_config();
  config.epochs = 2;
  config.mini_batches = 2;
  CHECK(
      step_of(policy, rollout, some_experience(rollout), config).stats.means.at("clip_fraction") ==
      0);
  CHECK(step_of(policy, rollout, some_experience(rollout), config, 0.05)
            .stats.means.at("clip_fraction") > 0.05);
}

TEST_CASE("update_policy: gspo with one update per rollout is GRPO's mean over sequences") {
  Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  const Tensor own = torch::sin(torch::arange(rollout.size(), torch::kFloat32)).unsqueeze(1);
  const Experience experience = experience_of(rollout, own * rollout.mask);
  Config config = plain_config();
  config.aggregation = Aggregation::sequence;
  const Step tokens = step_of(policy, rollout, experience, config);
  config.policy_loss = PolicyLoss::gspo;
  const Step responses = step_of(policy, rollout, experience, config);
  CHECK(tokens.gradient.norm().item<double>() > 1e-3);
  CHECK(close(responses.gradient, tokens.gradient));
  CHECK(responses.stats.means.at("policy_loss") ==
        doctest::Approx(tokens.stats.means.at("policy_loss")).epsilon(1e-5));
  // Off policy the two part, and the micro-batches still make no difference.
  config.epochs = 2;
  Rollout other = rollout;
  other.log_probs = rollout.log_probs + 0.1 * some_advantages(rollout);
  const Step whole = step_of(policy, other, experience, config);
  config.tokens_per_micro_batch = 40;
  CHECK(close(step_of(policy, other, experience, config).gradient, whole.gradient));
  config.policy_loss = PolicyLoss::clip;
  CHECK_FALSE(close(step_of(policy, other, experience, config).gradient, whole.gradient));
}

TEST_CASE("update_policy: tis weighs what the trainer and the sampler say of a token [TIS]") {
  Model policy = tiny_model(1);
  Rollout rollout = rollout_by_hand();
  const Tensor now = score_log_probs(policy, rollout, 1.0, kEverything);
  Experience experience = experience_of(
      rollout, torch::tensor({{1.0F, 2.0F, 3.0F}, {4.0F, kNan, kNan}, {-2.0F, 6.0F, kNan}}));
  // pi_trainer / pi_sampler is 4, held at 2, in the first response, and 1/2 in the others.
  rollout.log_probs = now - torch::tensor({{4.0F}, {0.5F}, {0.5F}}).log();
  Config config = plain_config();
  config.tis_cap = 2;
  const auto loss = [&] {
    return step_of(policy, rollout, experience, config).stats.means.at("policy_loss");
  };
  CHECK(loss() == doctest::Approx(-16.0 / 6).epsilon(1e-4));  // -(2 (1+2+3) + (4-2+6) / 2) / 6
  config.epochs = 2;  // the ratio is that to the trainer's own old policy, not to the sampler
  experience.old_log_probs = now;
  CHECK(loss() == doctest::Approx(-16.0 / 6).epsilon(1e-4));
  config.tis_cap = 0;
  CHECK(loss() == doctest::Approx(-14.0 / 6).epsilon(1e-4));
}

TEST_CASE("update_policy: the end token is trained, though its id is that of the padding [T1]") {
  Model policy = tiny_model(1);
  const Rollout rollout = rollout_by_hand();
  const Tensor at_the_end =
      torch::tensor({{0.0F, 0.0F, 1.0F}, {1.0F, 0.0F, 0.0F}, {0.0F, 0.0F, 0.0F}});
  const Tensor before = score_log_probs(policy, rollout, 1.0, kEverything);
  const Step step =
      step_of(policy, rollout, experience_of(rollout, at_the_end), plain_config(), /*rate=*/1e-3);
  CHECK(step.gradient.norm().item<double>() > 1e-2);
  const Tensor gain = score_log_probs(policy, rollout, 1.0, kEverything) - before;
  CHECK(gain[0][2].item<double>() > 0.01);
  CHECK(gain[1][0].item<double>() > 0.01);
}

TEST_CASE("update_policy: a response outside the loss mask counts nowhere [T16]") {
  Model policy = tiny_model(1);
  const Rollout rollout = rollout_by_hand();
  const auto with = [&](float advantage) {
    const Tensor advantages =
        torch::tensor({{1.0F, 2.0F, 3.0F}, {4.0F, 0.0F, 0.0F}, {advantage, advantage, 0.0F}});
    Experience experience = experience_of(rollout, advantages);
    experience.loss_mask = rollout.mask.clone();
    experience.loss_mask[2].zero_();
    return step_of(policy, rollout, experience, plain_config());
  };
  CHECK(with(6.0F).stats.means.at("policy_loss") == doctest::Approx(-2.5));  // (1 + 2 + 3 + 4) / 4
  CHECK(close(with(6.0F).gradient, with(-6.0F).gradient));
}

TEST_CASE("update_policy: a mini-batch with nothing in the loss leaves the means alone [T16]") {
  Model policy = tiny_model(1);
  const Rollout rollout = rollout_by_hand();
  Experience experience = experience_of(rollout, torch::full({3, 3}, 2.0F));
  experience.loss_mask = rollout.mask.clone();
  experience.loss_mask[1].zero_();
  Config config = plain_config();
  config.mini_batches = 3;  // one response each
  const UpdateStats stats = step_of(policy, rollout, experience, config).stats;
  CHECK(stats.updates == 3);
  CHECK(std::isfinite(stats.means.at("policy_loss")));
  CHECK(stats.means.at("entropy") > 0);
}

TEST_CASE("update_policy: with no advantages a KL in the loss moves towards the reference [T33]") {
  const Model reference = tiny_model(2);
  for (const auto kl : {KlPlacement::loss_k3, KlPlacement::loss_k2}) {
    Model policy = tiny_model(1);
    Config config = plain_config();
    config.kl = kl;
    config.kl_coef = 1;
    config.learning_rate = 3e-3;
    Learner learner(policy, config);
    const Rollout first = sample(policy);
    const double before = exact_kl(policy, reference, first);
    for (int64_t step = 0; step < 10; ++step) {
      const Rollout rollout = sample(policy, 1.0, step);
      Experience experience = experience_of(rollout, torch::zeros_like(rollout.log_probs));
      experience.ref_log_probs = score_log_probs(reference, rollout, 1.0, kEverything);
      update(learner, rollout, experience, config, step);
    }
    CHECK(before > 0.5);
    CHECK(exact_kl(policy, reference, first) < 0.7 * before);
  }
}

TEST_CASE("update_policy: responses without advantage give no gradient, and the same metrics") {
  Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  Experience experience = some_experience(rollout);
  experience.advantages.narrow(0, 8, 16).zero_();  // two groups of four
  experience.loss_mask = rollout.mask.clone();
  experience.loss_mask[0].zero_();  // and a response that is out of the loss
  const auto equal = [&](const Step& a, const Step& b) {
    CHECK(torch::allclose(a.gradient, b.gradient, /*rtol=*/1e-5, /*atol=*/1e-7));
    for (const auto& [name, mean] : a.stats.means)
      CHECK(mean == doctest::Approx(b.stats.means.at(name)).epsilon(1e-5));
    CHECK(a.stats.tokens == b.stats.tokens);
  };
  // With an entropy bonus, however small, all of them run backward.
  for (const int64_t tokens : {kEverything, kOneResponse}) {
    Config idle = plain_config(), busy = plain_config();
    idle.tokens_per_micro_batch = tokens;
    busy.entropy_coef = 1e-30;
    equal(step_of(policy, rollout, experience, idle), step_of(policy, rollout, experience, busy));
  }
  // Another term has a gradient where the advantages have none.
  Config config = plain_config();
  experience.advantages.zero_();
  CHECK(step_of(policy, rollout, experience, config).gradient.abs().max().item<float>() == 0);
  config.entropy_coef = 0.1;
  CHECK(step_of(policy, rollout, experience, config).gradient.abs().max().item<float>() > 1e-4);
}

TEST_CASE("a prompt that runs once gives each response what it gives it alone") {
  const Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  const auto all = count_up(rollout.size());
  const ScoringBatch batch = make_scoring_batch(rollout, all, policy);
  int64_t tokens = 0;  // 4 prompts, and each response without its last token
  for (const auto& prompt : rollout.prompts) tokens += std::ssize(prompt);
  for (const int64_t length : rollout.lengths) tokens += length - 1;
  CHECK(batch.tokens.ids.size(0) == tokens);
  const at::NoGradGuard no_grad;
  Tensor together = torch::zeros_like(rollout.log_probs), alone = together.clone();
  batch.put(together, batch.log_probs(policy, 1.0));
  for (const int64_t i : all) {
    const ScoringBatch one = make_scoring_batch(rollout, {i}, policy);
    one.put(alone, one.log_probs(policy, 1.0));
  }
  CHECK(torch::allclose(together, alone, /*rtol=*/0, /*atol=*/1e-5));
}

TEST_CASE("update_policy: an entropy bonus raises the entropy") {
  Model policy = tiny_model(1);
  const Rollout rollout = sample(policy);
  Config config = plain_config();
  config.entropy_coef = 1;
  const double before = exact_entropy(policy, rollout);
  step_of(policy, rollout, experience_of(rollout, torch::zeros_like(rollout.log_probs)), config,
          /*rate=*/3e-3);
  CHECK(exact_entropy(policy, rollout) > before + 0.01);
}

TEST_CASE("sampler and trainer see one distribution, at any temperature [T8, T10, T23]") {
  Model policy = tiny_model(1);
  for (const double temperature : {1.0, 0.6}) {
    const Rollout rollout = sample(policy, temperature);
    Config config = plain_config();
    config.temperature = temperature;
    const auto experience = some_experience(rollout);
    CHECK(step_of(policy, rollout, experience, config).stats.ratio_max_deviation < 1e-4);
    CHECK(close(score_log_probs(policy, rollout, temperature, /*max_tokens=*/20), rollout.log_probs,
                1e-4));
    config.temperature = 2.0;  // the figure does show a difference
    CHECK(step_of(policy, rollout, experience, config).stats.ratio_max_deviation > 0.1);
    CHECK(step_of(policy, rollout, experience, config).stats.means.at("log_prob_gap_mean") > 0.1);
  }
}

TEST_CASE("padded rows of the vocabulary are neither sampled nor scored [T22]") {
  Model policy = tiny_model(1);
  policy.parameters()
      .narrow(0, 8 * 32, 4 * 32)
      .mul_(5.0);  // embeddings 8 to 11 become the most attractive
  CHECK(sample(policy).response_ids.max().item<int64_t>() >= 8);
  policy.limit_vocabulary(8);
  const Rollout rollout = sample(policy);
  CHECK(rollout.response_ids.max().item<int64_t>() < 8);
  CHECK(close(full_log_probs(policy, rollout).exp().sum(/*dim=*/1),
              torch::ones({rollout.response_tokens()})));
  const Step step = step_of(policy, rollout, some_experience(rollout), plain_config());
  CHECK(step.stats.ratio_max_deviation < 1e-4);
  CHECK(step.gradient.narrow(0, 8 * 32, 4 * 32).norm().item<double>() == 0);
}

TEST_CASE("scores: token t is predicted, and its state valued, from what stands before it") {
  Model model = tiny_model(1, Head::both);
  model.parameters()
      .narrow(0, model.parameters().size(0) - 32, 32)
      .copy_(torch::linspace(-1, 1, 32));  // the value head
  Rollout rollout = rollout_by_hand();
  const Tensor log_probs = score_log_probs(model, rollout, 1.0, kEverything),
               values = score_values(model, rollout, kEverything);
  const at::NoGradGuard no_grad;
  for (int64_t i = 0; i < rollout.size(); ++i) {
    auto before = rollout.prompts[i];
    for (int64_t t = 0; t < rollout.lengths[i]; ++t) {
      const Tensor hidden = model.hidden_states(PackedTokens::from({before}, torch::kCPU));
      const Tensor last = torch::tensor({static_cast<int64_t>(before.size()) - 1}),
                   id = rollout.response_ids[i][t];
      CHECK(close(model.log_probs(hidden, last, id.unsqueeze(0), 1.0, false).log_probs[0],
                  log_probs[i][t], 1e-5));
      CHECK(close(model.values(hidden, last)[0], values[i][t], 1e-5));
      before.push_back(id.item<int64_t>());
    }
  }
  CHECK(log_probs[1][1].item<double>() == 0);  // beyond the response
  CHECK(values.std().item<double>() > 0.1);
}

TEST_CASE("update_policy and update_critic leave rollout and experience as they are [T3]") {
  Model policy = tiny_model(1, Head::both), critic = tiny_model(3, Head::value);
  const Rollout rollout = sample(policy);
  Experience experience = some_experience(rollout);
  experience.ref_log_probs = rollout.log_probs - 0.1;
  experience.values = some_advantages(rollout) + 1;
  experience.returns = some_advantages(rollout) + 2;
  const std::vector<Tensor> tensors{
      rollout.response_ids, rollout.log_probs,     rollout.mask,
      rollout.rewards,      experience.advantages, experience.ref_log_probs,
      experience.values,    experience.returns,    experience.loss_mask};
  std::vector<Tensor> copies;
  for (const auto& tensor : tensors) copies.push_back(tensor.clone());
  const auto lengths = rollout.lengths;
  Config config = plain_config();
  config.algorithm = Algorithm::ppo;
  config.critic = CriticNetwork::shared;
  config.kl = KlPlacement::loss_k2;
  config.entropy_coef = config.value_clip = 0.2;
  config.epochs = config.mini_batches = config.critic_mini_batches = 2;
  config.tokens_per_micro_batch = 40;
  CHECK(step_of(policy, rollout, experience, config, /*rate=*/1e-3).stats.skipped.empty());
  Learner learner(critic, config);
  CHECK(update_values(learner, rollout, experience, config).skipped.empty());
  for (size_t i = 0; i < tensors.size(); ++i) {
    CAPTURE(i);
    CHECK(torch::equal(tensors[i], copies[i]));
  }
  CHECK(rollout.lengths == lengths);
}

TEST_CASE("update_policy: a term that is not finite is named and changes nothing") {
  Model policy = tiny_model(1);
  const Rollout rollout = rollout_by_hand();
  for (const std::string term : {"policy_loss", "kl"}) {
    Experience experience = experience_of(rollout, torch::ones({3, 3}));
    experience.ref_log_probs = torch::zeros({3, 3});
    (term == "kl" ? experience.ref_log_probs : experience.advantages)[0][1] = kNan;
    const Tensor before = policy.parameters().clone();
    Learner learner(policy, plain_config());
    CHECK(update(learner, rollout, experience, plain_config()).skipped == term);
    CHECK(torch::equal(policy.parameters(), before));
    CHECK(torch::equal(learner.model.gradients(), torch::zeros_like(before)));
    CHECK(learner.optimizer.updates == 0);
  }
}

TEST_CASE("update_policy with bfloat16 products moves float32 weights at rate 1e-6 [T12]") {
  Model policy = tiny_model(1);
  Config config = plain_config();
  config.compute_type = ComputeType::bfloat16;
  const Tensor before = policy.parameters().clone();
  const Rollout rollout = rollout_by_hand();
  const Step step =
      step_of(policy, rollout, experience_of(rollout, torch::ones({3, 3})), config, 1e-6);
  CHECK((policy.parameters().scalar_type() == torch::kFloat32));
  const Tensor moved = policy.parameters() != before, wanted = step.gradient.abs() > 1e-4;
  CHECK(wanted.sum().item<int64_t>() > 1000);
  CHECK((moved | ~wanted).to(torch::kFloat32).mean().item<double>() > 0.99);
}

TEST_CASE("a shared critic learns beside the policy, weighted by value_coef") {
  Model policy = tiny_model(1, Head::both);
  const Rollout rollout = rollout_by_hand();
  Experience experience = experience_of(rollout, torch::zeros({3, 3}));
  experience.values = torch::zeros({3, 3});
  experience.returns = torch::full({3, 3}, 3.0F);
  Config config = plain_config();
  config.algorithm = Algorithm::ppo;
  config.critic = CriticNetwork::shared;
  config.value_coef = 0.5;
  const Step half = step_of(policy, rollout, experience, config);
  CHECK(half.stats.means.at("value_loss") ==
        doctest::Approx(4.5));  // the head starts at zero [T19]: (0 - 3)^2 / 2
  CHECK(half.gradient.norm().item<double>() > 0.1);
  config.value_coef = 1.0;
  CHECK(close(step_of(policy, rollout, experience, config).gradient, 2 * half.gradient));
  config.learning_rate = 3e-3;
  Learner learner(policy, config);
  double loss = 4.5;
  for (int64_t step = 0; step < 20; ++step) {
    loss = update(learner, rollout, experience, config, step).means.at("value_loss");
  }
  CHECK(loss < 0.5);
}

TEST_CASE("value_clip holds the values of either critic near the old ones [T20]") {
  const Rollout rollout = rollout_by_hand();
  Experience experience = experience_of(rollout, torch::zeros({3, 3}));
  experience.values = torch::full({3, 3}, -1.0F);
  experience.returns = torch::full({3, 3}, 3.0F);
  Config config = plain_config();
  config.algorithm = Algorithm::ppo;
  config.value_clip = 0.5;
  // The heads start at zero: V = 0 is held at -1 + 0.5, and (-0.5 - 3)^2 / 2 is the larger loss.
  Learner separate(tiny_model(1, Head::value), config);
  CHECK(update_values(separate, rollout, experience, config).means.at("value_loss") ==
        doctest::Approx(6.125));
  config.critic = CriticNetwork::shared;
  Learner shared(tiny_model(1, Head::both), config);
  CHECK(update(shared, rollout, experience, config).means.at("value_loss") ==
        doctest::Approx(6.125));
}

TEST_CASE("update_critic lowers the value loss, in however many micro-batches [T2]") {
  const Rollout rollout = rollout_by_hand();
  Experience experience = experience_of(rollout, torch::zeros({3, 3}));
  experience.values = torch::zeros({3, 3});
  experience.returns = torch::tensor({{1.0F, 2.0F, 3.0F}, {2.0F, kNan, kNan}, {0.0F, 1.0F, kNan}});
  Config config = plain_config();
  config.critic_learning_rate = 3e-3;
  Tensor gradients[2];
  for (const int64_t tokens : {kEverything, kOneResponse}) {
    config.tokens_per_micro_batch = tokens;
    Model critic = tiny_model(1, Head::value);
    Learner learner(critic, config);
    const auto value_loss_of = [&](int64_t step) {
      return update_values(learner, rollout, experience, config, step).means.at("value_loss");
    };
    const double first = value_loss_of(0);
    CHECK(first == doctest::Approx(19.0 / 12.0));  // (1 + 4 + 9 + 4 + 0 + 1) / 2 / 6
    gradients[tokens == kOneResponse] = learner.optimizer.mean.clone();
    double loss = first;
    for (int64_t step = 1; step < 40; ++step) loss = value_loss_of(step);
    CHECK(loss < 0.1 * first);
  }
  CHECK(close(gradients[1], gradients[0]));
  experience.returns[0][0] = kNan;
  Model critic = tiny_model(1, Head::value);
  const Tensor before = critic.parameters().clone();
  Learner learner(critic, config);
  CHECK(update_values(learner, rollout, experience, config).skipped == "value_loss");
  CHECK(torch::equal(critic.parameters(), before));
  CHECK(learner.model.gradients().norm().item<double>() == 0);
}

TEST_CASE("a three-token policy learns its reward, by every algorithm") {
  for (size_t algorithm = 0; algorithm < choices(Algorithm{}).size(); ++algorithm) {
    CAPTURE(choices(Algorithm{})[algorithm]);
    Config config = plain_config();
    config.algorithm = static_cast<Algorithm>(algorithm);
    if (config.has_prm()) continue;  // test_prime.cpp
    config.group_size = 16;
    config.max_grad_norm = 1;
    config.learning_rate = config.critic_learning_rate = 3e-3;
    Learner policy(tiny_model(4, Head::language_model, /*vocab_size=*/3), config);
    Learner critic(tiny_model(5, Head::value, 3), config);
    Sampler sampler(policy.model, {/*temperature=*/1.0, /*top_p=*/1.0, /*max_response_tokens=*/1,
                                   /*batch=*/64, /*seed=*/0});
    Rollout rollout;
    for (int64_t step = 0; step < 40; ++step) {
      rollout = sampler.sample({{1}}, /*group_size=*/16, /*call=*/step);
      rollout.rewards =
          (rollout.response_ids.select(1, 0) == 2).to(torch::kFloat32);  // only token 2 is right
      rollout.grades.resize(16);
      for (size_t i = 0; i < 16; ++i)
        rollout.grades[i].correct = rollout.rewards[static_cast<int64_t>(i)].item<float>() == 1;
      Judgement judgement{rollout.rewards, rollout.mask, {}, {}};
      if (config.has_critic()) judgement.values = score_values(critic.model, rollout, kEverything);
      const Advantages estimate = estimate_advantages(rollout, judgement, config);
      if (config.has_critic()) update_critic(critic, rollout, judgement, estimate, config, step);
      update_policy(policy, rollout, judgement, estimate, config, step);
    }
    CHECK(full_log_probs(policy.model, rollout)[0][2].exp().item<double>() > 0.95);
  }
}

TEST_CASE("updates follow the schedule by the network's own count [T38]") {
  Model start = tiny_model(1);
  const Rollout rollout = rollout_by_hand();
  Config config = plain_config();
  config.mini_batches = 3;
  config.num_steps = 2;
  config.learning_rate = 6e-3;
  config.warmup_updates = 6;
  Learner policy(start, config);
  const auto rate = [&](int64_t step) {
    return update(policy, rollout, some_experience(rollout), config, step).learning_rate;
  };
  CHECK(rate(0) == doctest::Approx(3e-3));  // the third of six warm-up updates
  CHECK(rate(1) == doctest::Approx(6e-3));
}
