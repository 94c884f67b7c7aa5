#include <doctest/doctest.h>

#include <cmath>

#include "tiny_zero/advantage.h"
#include "tiny_zero/methods/process_supervision.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool close(const Tensor& x, const Tensor& expected) {
  return torch::allclose(x, expected, /*rtol=*/1e-5, /*atol=*/1e-6);
}

Tensor mask_of(const std::vector<int64_t>& lengths, int64_t width) {
  return torch::arange(width).unsqueeze(0) < torch::tensor(lengths).unsqueeze(1);
}

Tensor in_group(std::vector<float> rewards, GroupStd deviation, double epsilon = 0,
                Baseline baseline = Baseline::mean) {
  const auto size = static_cast<int64_t>(rewards.size());
  return group_advantages(torch::tensor(rewards), size, deviation, epsilon, baseline);
}

}  // namespace

TEST_CASE(
    "token_rewards: the reward falls on the last sampled token, the KL penalty on every token "
    "[T15]") {
  const Tensor rewards = torch::tensor({1.0F, -1.0F}), mask = mask_of({3, 1}, 3);
  CHECK(torch::equal(token_rewards(rewards, mask, Tensor(), 0.5),
                     torch::tensor({{0.0F, 0.0F, 1.0F}, {-1.0F, 0.0F, 0.0F}})));
  // -beta log_ratio: -0.05, -0.1, 1 - 0.15 and -1 - 0.2; what stands in the padding counts nowhere
  const Tensor log_ratio = torch::tensor({{0.1F, 0.2F, 0.3F}, {0.4F, 100.0F, -100.0F}});
  CHECK(close(token_rewards(rewards, mask, log_ratio, 0.5),
              torch::tensor({{-0.05F, -0.1F, 0.85F}, {-1.2F, 0.0F, 0.0F}})));
}

TEST_CASE("generalized_advantages equals GAE worked by hand, and padding changes nothing [T14]") {
  // First row: r = 0, 0, 1 and V = 0.5, 0.25, 0.5, terminal value 0. Second row: one token with r =
  // 2 and V = 1, so that A = 2 + gamma * 0 - 1 whatever the padding holds.
  const Tensor rewards = torch::tensor({{0.0F, 0.0F, 1.0F}, {2.0F, 0.0F, 0.0F}}),
               mask = mask_of({3, 1}, 3);
  struct Case {
    double gamma, lambda;
    std::vector<float> advantages, returns;
  };
  const Case cases[] = {
      {1.0, 1.0, {0.5F, 0.75F, 0.5F}, {1.0F, 1.0F, 1.0F}},     // A = 1 - V: Monte Carlo
      {1.0, 0.0, {-0.25F, 0.25F, 0.5F}, {0.25F, 0.5F, 1.0F}},  // the deltas alone
      {0.5, 1.0, {-0.25F, 0.25F, 0.5F}, {0.25F, 0.5F, 1.0F}},  // returns 0.25, 0.5, 1
      {0.5,
       0.5,
       {-0.34375F, 0.125F, 0.5F},
       {0.15625F, 0.375F, 1.0F}},  // deltas -0.375, 0, 0.5, each + 0.25 of the next
  };
  for (const auto& [gamma, lambda, advantages, returns] : cases) {
    for (const float poison : {0.0F, 100.0F, kNan}) {
      CAPTURE(gamma);
      CAPTURE(lambda);
      CAPTURE(poison);
      const Tensor values = torch::tensor({{0.5F, 0.25F, 0.5F}, {1.0F, poison, poison}});
      const Gae gae = generalized_advantages(rewards, values, mask, gamma, lambda);
      CHECK(close(gae.advantages,
                  torch::stack({torch::tensor(advantages), torch::tensor({1.0F, 0.0F, 0.0F})})));
      CHECK(close(gae.returns,
                  torch::stack({torch::tensor(returns), torch::tensor({2.0F, 0.0F, 0.0F})})));
    }
  }
  CHECK_THROWS_AS(generalized_advantages(rewards, torch::zeros({2, 2}), mask, 1, 1), c10::Error);
}

TEST_CASE("group_advantages equals outcome supervision worked by hand: n - 1, n, none, epsilon") {
  // {0, 0, 0, 4}: mean 1, squares 1 + 1 + 1 + 9 = 12, deviation sqrt(12 / 3) = 2 or sqrt(12 / 4) =
  // sqrt 3
  CHECK(
      close(in_group({0, 0, 0, 4}, GroupStd::sample), torch::tensor({-0.5F, -0.5F, -0.5F, 1.5F})));
  CHECK(close(in_group({0, 0, 0, 4}, GroupStd::population),
              torch::tensor({-0.577350F, -0.577350F, -0.577350F, 1.732051F})));
  CHECK(close(in_group({0, 0, 0, 4}, GroupStd::none), torch::tensor({-1.0F, -1.0F, -1.0F, 3.0F})));
  CHECK(close(in_group({0, 0, 0, 4}, GroupStd::sample, /*epsilon=*/0.5),
              torch::tensor({-0.4F, -0.4F, -0.4F, 1.2F})));
  // Groups lie one after another: {1, 3} and {10, 30} have means 2 and 20.
  CHECK(close(group_advantages(torch::tensor({1.0F, 3.0F, 10.0F, 30.0F}), 2, GroupStd::none, 0,
                               Baseline::mean),
              torch::tensor({-1.0F, 1.0F, -10.0F, 10.0F})));
  CHECK_THROWS_AS(group_advantages(torch::zeros({5}), 2, GroupStd::none, 0, Baseline::mean),
                  c10::Error);
}

TEST_CASE("group_advantages with leave-one-out subtracts the mean of the others [RLOO]") {
  // 0 - 4 / 3 and 4 - 0; divided by the deviation 2 of the group where that is asked for
  CHECK(close(in_group({0, 0, 0, 4}, GroupStd::none, 0, Baseline::leave_one_out),
              torch::tensor({-1.333333F, -1.333333F, -1.333333F, 4.0F})));
  CHECK(close(in_group({0, 0, 0, 4}, GroupStd::sample, 0, Baseline::leave_one_out),
              torch::tensor({-0.666667F, -0.666667F, -0.666667F, 2.0F})));
}

TEST_CASE("group_advantages of equal rewards are exactly 0, though their mean is not exact [T5]") {
  for (const int64_t size : {1, 3, 7, 10, 64}) {
    for (const float reward : {0.1F, 0.3F, 0.0F, -1.1F}) {
      for (const auto deviation : {GroupStd::none, GroupStd::sample, GroupStd::population}) {
        for (const auto baseline : {Baseline::mean, Baseline::leave_one_out}) {
          CAPTURE(size);
          CAPTURE(reward);
          CHECK(torch::equal(
              group_advantages(torch::full({size}, reward), size, deviation, 0, baseline),
              torch::zeros({size})));
        }
      }
    }
  }
}

TEST_CASE("group_advantages survive a large offset: the variance is two-pass [T6]") {
  // Deviations -1.5, -0.5, 0.5, 1.5; squares sum to 5; sqrt(5 / 3) = 1.290994. In float32, E[x^2] -
  // E[x]^2 near 1e12 is noise.
  CHECK(close(in_group({1e6F, 1e6F + 1, 1e6F + 2, 1e6F + 3}, GroupStd::sample),
              torch::tensor({-1.161895F, -0.387298F, 0.387298F, 1.161895F})));
}

TEST_CASE("whiten takes mean and deviation from the masked entries only [T18]") {
  // 1, 3, 5: mean 3, deviation sqrt(8 / 3) = 1.632993
  const Tensor x = torch::tensor({{1.0F, 3.0F, 100.0F}, {5.0F, kNan, -7.0F}});
  CHECK(close(whiten(x, mask_of({2, 1}, 3)),
              torch::tensor({{-1.224745F, 0.0F, 0.0F}, {1.224745F, 0.0F, 0.0F}})));
  CHECK(torch::equal(whiten(torch::full({1, 3}, 0.1F), mask_of({3}, 3)), torch::zeros({1, 3})));
}

TEST_CASE("explained_variance by hand, padding left out") {
  const auto explained = [](std::vector<float> values, std::vector<float> returns) {
    const auto row = [](std::vector<float>& x) {
      return x.push_back(kNan), torch::tensor(x).unsqueeze(0);
    };
    return explained_variance(row(values), row(returns), mask_of({3}, 4));
  };
  CHECK(explained({1, 2, 3}, {1, 2, 3}) == doctest::Approx(1.0));
  CHECK(explained({11, 12, 13}, {1, 2, 3}) ==
        doctest::Approx(1.0));  // a constant error is not variance
  CHECK(explained({2, 2, 2}, {1, 2, 3}) == doctest::Approx(0.0));
  CHECK(explained({2, 2, 3}, {1, 2, 3}) ==
        doctest::Approx(2.0 / 3.0));  // errors -1, 0, 0: variance 2/9 of 2/3
  CHECK(explained({3, 2, 1}, {1, 2, 3}) ==
        doctest::Approx(-3.0));  // errors -2, 0, 2: variance 8/3 of 2/3
  CHECK(explained({0, 1, 2}, {1, 1, 1}) == 0.0);
  // Equal but for rounding: the variance that is left is no signal [T39].
  CHECK(explained({0, 1, 2}, {0.1F, 0.1F, 0.1F + 1e-8F}) == 0.0);
  CHECK(explained({0, 1, 2}, {0.3F, 0.1F + 0.2F, 0.7F - 0.4F}) == 0.0);
  CHECK(explained({1e-3F, 2e-3F, 3e-3F}, {1e-3F, 2e-3F, 3e-3F}) ==
        doctest::Approx(1.0));  // small returns are
}

TEST_CASE("process_advantages equals process supervision worked by hand [GRPO 4.1.3]") {
  // The first group's rewards 1, 0, 1 and 0 have mean 1/2, squares 4 * 1/4 and deviation 1/2 over
  // n = 4: normalised 1, -1, 1, -1. A token gets what its own step and the later ones earned. All
  // steps of the second group earned 0.1, which is 0 exactly. Rows: response, token, reward.
  const Tensor steps = torch::tensor({{0.F, 1.F, 1.F},
                                      {0.F, 3.F, 0.F},
                                      {0.F, 4.F, 1.F},
                                      {1.F, 2.F, 0.F},
                                      {2.F, 0.F, .1F},
                                      {2.F, 1.F, .1F},
                                      {3.F, 2.F, .1F}});
  const std::vector<int64_t> lengths{5, 3, 2, 3};
  const Tensor expected = torch::tensor({{1.F, 1.F, 0.F, 0.F, 1.F},
                                         {-1.F, -1.F, -1.F, 0.F, 0.F},
                                         {0.F, 0.F, 0.F, 0.F, 0.F},
                                         {0.F, 0.F, 0.F, 0.F, 0.F}});
  CHECK(torch::equal(process_advantages(steps, lengths, 2, GroupStd::population, 0), expected));
  CHECK(torch::equal(process_advantages(steps, lengths, 2, GroupStd::none, 0), expected / 2));
  // Over n - 1 = 3 the deviation is 0.577350; with epsilon 0.5 over n it is 1.
  CHECK(close(process_advantages(steps, lengths, 2, GroupStd::sample, 0), expected * 0.866025));
  CHECK(close(process_advantages(steps, lengths, 2, GroupStd::population, 0.5), expected / 2));
  // Two steps may end in one token: 1 and 1 beside -1 and -1.
  const Tensor twice =
      torch::tensor({{0.F, 0.F, 1.F}, {0.F, 0.F, 1.F}, {1.F, 0.F, 0.F}, {1.F, 1.F, 0.F}});
  CHECK(torch::equal(process_advantages(twice, {1, 2}, 2, GroupStd::population, 0),
                     torch::tensor({{2.F, 0.F}, {-2.F, -1.F}})));
}

TEST_CASE("process_advantages with one step per response are the group_advantages, bit by bit") {
  uint64_t state = 1;
  for (const int64_t group_size : {1, 2, 3, 8, 16, 64}) {
    std::vector<float> rewards, steps;
    std::vector<int64_t> lengths;
    for (int64_t i = 0; i < 3 * group_size; ++i) {
      state = mix_bits(state);
      rewards.push_back(static_cast<float>(unit_interval(state)));
      if (i < group_size) rewards.back() = 0.1F;  // a group of equal rewards
      lengths.push_back(1 + i % 5);
      steps.insert(steps.end(), {static_cast<float>(i), static_cast<float>(i % 5), rewards.back()});
    }
    const Tensor mask = mask_of(lengths, *std::max_element(lengths.begin(), lengths.end()));
    for (const auto deviation : {GroupStd::none, GroupStd::sample, GroupStd::population}) {
      const Tensor outcome =
          group_advantages(torch::tensor(rewards), group_size, deviation, 1e-6, Baseline::mean);
      CAPTURE(group_size);
      CHECK(torch::equal(process_advantages(torch::tensor(steps).view({-1, 3}), lengths, group_size,
                                            deviation, 1e-6),
                         outcome.unsqueeze(1) * mask));
    }
  }
}

TEST_CASE("process_advantages refuses a step outside its response, naming both") {
  for (const int64_t index : {-1, 3, 100}) {
    const Tensor steps = torch::tensor({{0.F, 2.F, 1.F}, {1.F, static_cast<float>(index), 0.F}});
    const std::string message =
        "response 1: a step ends at token " + std::to_string(index) + ", want 0 to 2";
    CHECK_THROWS_WITH_AS(process_advantages(steps, {5, 3}, 2, GroupStd::sample, 0),
                         doctest::Contains(message.c_str()), std::invalid_argument);
  }
}
