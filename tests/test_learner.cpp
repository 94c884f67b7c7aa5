#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>

#include "tiny_zero/learner.h"
#include "tiny_zero/settings/config.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

/// No clip, no decay, epsilon 0, so that each test turns on what it is about.
Config plain_config() {
  Config config;
  config.beta1 = 0.5;
  config.beta2 = 0.75;
  config.adam_epsilon = config.weight_decay = config.max_grad_norm = 0;
  return config;
}

}  // namespace

TEST_CASE(
    "AdamW: three steps worked by hand, epsilon outside the root and after the correction [T20]") {
  // beta 0.5 and 0.75, epsilon 1, rate 0.1, p = 1
  //   g    m      v       m^         v^          p
  //   2    1      1       2          4           1        - 0.1 *  2 / 3                = 0.933333
  //  -4   -1.5    4.75   -2         10.857143    0.933333 - 0.1 * -2 / 4.295018         = 0.979899
  //   0   -0.75   3.5625 -0.857143   6.162162    0.979899 - 0.1 * -0.857143 / 3.482370  = 1.004513
  Config config = plain_config();
  config.adam_epsilon = 1;
  Tensor parameters = torch::ones({1}), gradients = torch::zeros({1});
  AdamW optimizer(parameters, config);
  for (const auto& [slope, expected] :
       {std::pair{2.0, 0.933333}, {-4.0, 0.979899}, {0.0, 1.004513}}) {
    gradients.fill_(slope);
    CHECK(optimizer.step(parameters, gradients, 0.1) == doctest::Approx(std::abs(slope)));
    CHECK(parameters.item<double>() == doctest::Approx(expected).epsilon(1e-6));
    CHECK(gradients.item<double>() == 0);  // or the next backward pass would add to them
  }
  CHECK(optimizer.mean.item<double>() == doctest::Approx(-0.75));
  CHECK(optimizer.square.item<double>() == doctest::Approx(3.5625));
  CHECK(optimizer.updates == 3);
}

TEST_CASE("AdamW: gradients longer than max_grad_norm are scaled to it, shorter ones left alone") {
  Config config = plain_config();
  config.max_grad_norm = 1;
  Tensor parameters = torch::zeros({2}), gradients = torch::tensor({3.0F, 4.0F});
  AdamW longer(parameters, config), shorter(parameters, config);
  CHECK(longer.step(parameters, gradients, 0.1) ==
        doctest::Approx(5.0));                                       // the norm before scaling
  CHECK(torch::allclose(longer.mean, torch::tensor({0.3F, 0.4F})));  // half of (0.6, 0.8)
  gradients.copy_(torch::tensor({0.3F, 0.4F}));
  CHECK(shorter.step(parameters, gradients, 0.1) == doctest::Approx(0.5));
  CHECK(torch::allclose(shorter.mean, torch::tensor({0.15F, 0.2F})));
}

TEST_CASE("AdamW: a gradient that is not finite changes nothing but is zeroed") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Config config = plain_config();
    config.weight_decay = 0.1;
    config.max_grad_norm = 1;
    Tensor parameters = torch::ones({2}), gradients = torch::tensor({1.0F, bad});
    AdamW optimizer(parameters, config);
    CHECK_FALSE(std::isfinite(optimizer.step(parameters, gradients, 0.1)));
    CHECK(torch::equal(parameters, torch::ones({2})));
    CHECK(torch::equal(gradients, torch::zeros({2})));
    CHECK(torch::equal(optimizer.mean, torch::zeros({2})));
    CHECK(torch::equal(optimizer.square, torch::zeros({2})));
    CHECK(optimizer.updates == 0);
  }
}

TEST_CASE("AdamW: weight decay is decoupled from the moments") {
  Config config = plain_config();
  config.weight_decay = 0.1;
  Tensor parameters = torch::full({2}, 2.0F), gradients = torch::tensor({0.0F, 4.0F});
  config.adam_epsilon = 1e-8;
  AdamW optimizer(parameters, config);
  optimizer.step(parameters, gradients, 0.5);
  // 2 (1 - 0.5 * 0.1) = 1.9; the second also takes a first Adam step of the rate times the
  // gradient's sign
  CHECK(torch::allclose(parameters, torch::tensor({1.9F, 1.4F})));
  CHECK(optimizer.mean[0].item<double>() == 0);
}

TEST_CASE("AdamW: a step at rate 1e-6 moves every float32 weight by about 1e-6 [T12]") {
  Tensor parameters = torch::linspace(-1, 1, 1000);
  const Tensor before = parameters.clone();
  Tensor gradients = torch::full({1000}, 1e-3F);
  AdamW optimizer(parameters, plain_config());
  optimizer.step(parameters, gradients, 1e-6);
  CHECK(torch::allclose(before - parameters, torch::full({1000}, 1e-6F), /*rtol=*/0.1, /*atol=*/0));
}

TEST_CASE("LearningRate at its corners") {
  const auto rate = [](Schedule schedule, int64_t update, int64_t warmup = 2, int64_t total = 12) {
    return LearningRate{/*peak=*/1.0, /*final=*/0.1, schedule, warmup, total}.at(update);
  };
  for (const auto schedule : {Schedule::constant, Schedule::linear, Schedule::cosine}) {
    CHECK(rate(schedule, 0) == doctest::Approx(0.5));  // the first of two warm-up updates is not 0
    CHECK(rate(schedule, 1) == doctest::Approx(1.0));
    CHECK(rate(schedule, 2) == doctest::Approx(1.0));
    CHECK(rate(schedule, 0, /*warmup=*/0) == doctest::Approx(1.0));
    CHECK(rate(schedule, 0, /*warmup=*/0, /*total=*/1) == doctest::Approx(1.0));
    const double last = schedule == Schedule::constant ? 1.0 : 0.1;
    CHECK(rate(schedule, 11) == doctest::Approx(last));
    CHECK(rate(schedule, 30) == doctest::Approx(last));
  }
  CHECK(rate(Schedule::linear, 5) == doctest::Approx(0.7));    // a third of the way: 1 - 0.9 / 3
  CHECK(rate(Schedule::cosine, 5) == doctest::Approx(0.775));  // cos 60 degrees: 0.1 + 0.9 * 0.75
}

TEST_CASE("each network's learning rate counts its own updates [T38]") {
  Config config;
  config.algorithm = Algorithm::ppo;
  config.epochs = 2;
  config.mini_batches = 3;
  config.critic_mini_batches = 4;
  config.num_steps = 10;
  config.critic_warmup_steps = 2;
  config.warmup_updates = 5;
  config.schedule = Schedule::linear;
  config.learning_rate = 1e-3;
  config.final_learning_rate = 1e-4;
  config.critic_learning_rate = 4e-3;
  CHECK(policy_learning_rate(config).total_updates == 2 * 3 * 8);  // none while the critic warms up
  CHECK(critic_learning_rate(config).total_updates == 2 * 4 * 10);
  CHECK(critic_learning_rate(config).at(0) == doctest::Approx(4e-3 / 5));
  CHECK(critic_learning_rate(config).at(79) ==
        doctest::Approx(4e-4));  // the same tenth of its peak
  config.learning_rate = 0;
  CHECK(critic_learning_rate(config).at(79) == 0);
  config.learning_rate = 1e-3;
  config.critic_learning_rate = 0;  // means no learning, not the policy's rate
  CHECK(critic_learning_rate(config).at(10) == 0);
  config.critic = CriticNetwork::shared;  // nothing waits for a head on the policy's own trunk
  CHECK(policy_learning_rate(config).total_updates == 2 * 3 * 10);
}

TEST_CASE("a saved learner goes on as if it had never stopped [T17]") {
  ModelConfig shape;
  shape.vocab_size = shape.used_vocab_size = 4;
  shape.hidden_size = shape.ffn_size = 16;
  shape.num_layers = 1;
  shape.attention = {1, 1, 16};
  const Config config;
  Learner learner(Model(shape, Head::language_model, /*seed=*/0, torch::kCPU), config);
  const auto step = [](Learner& one, double gradient) {
    one.model.gradients().fill_(gradient);
    one.step(/*learning_rate=*/1e-2);
  };
  step(learner, 1);
  step(learner, -0.5);
  const auto path =
      std::filesystem::temp_directory_path() / ("tiny_zero_learner_" + std::to_string(getpid()));
  learner.save(path, "model");
  Learner loaded = Learner::load(path, "model", Head::language_model, torch::kCPU, config);
  std::filesystem::remove_all(path);
  step(learner, 0.1);
  step(loaded, 0.1);
  CHECK(loaded.optimizer.updates == 3);
  CHECK(torch::equal(loaded.model.parameters(), learner.model.parameters()));
}

TEST_CASE(
    "init_value_head: zero, the uniform distribution of ORZ's paper, the normal one of its code") {
  ModelConfig shape;
  shape.vocab_size = shape.used_vocab_size = 4;
  shape.hidden_size = 4096;
  shape.num_layers = 1;
  shape.attention = {1, 1, 16};
  shape.ffn_size = 16;
  Model model(shape, Head::value, /*seed=*/0, torch::kCPU);
  const at::NoGradGuard no_grad;
  init_value_head(model, HeadInit::zero, 1);
  CHECK(model.value_head().abs().max().item<double>() == 0);
  init_value_head(model, HeadInit::orz, 1);
  CHECK(model.value_head().abs().max().item<double>() == doctest::Approx(2.236).epsilon(0.01));
  CHECK(model.value_head().std().item<double>() ==
        doctest::Approx(1.291).epsilon(0.05));  // sqrt(5/3)
  init_value_head(model, HeadInit::normal, 1);
  CHECK(model.value_head().std().item<double>() == doctest::Approx(1.0 / 4097).epsilon(0.05));
  const Tensor first = model.value_head().clone();
  init_value_head(model, HeadInit::zero, 1);
  CHECK(torch::equal(model.value_head(), first));  // a head that was loaded is kept
  init_value_head(model, HeadInit::normal, 2);
  CHECK_FALSE(torch::equal(model.value_head(), first));
}
