#include <doctest/doctest.h>

#include <cmath>

#include "tiny_zero/kernels/kernels.h"
#include "tiny_zero/methods/policy_terms.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

bool close(const Tensor& x, const Tensor& expected) {
  return torch::allclose(x, expected, /*rtol=*/1e-5, /*atol=*/1e-6);
}

Tensor leaf(const Tensor& x) { return x.detach().clone().set_requires_grad(true); }

/// d sum(loss(x)) / dx
template <class Loss>
Tensor gradient(const Tensor& x, const Loss& loss) {
  const Tensor input = leaf(x);
  loss(input).sum().backward();
  return input.grad();
}

}  // namespace

TEST_CASE("policy_loss equals PPO eq. 7 worked by hand, with unequal bounds [DAPO]") {
  // eps 0.2 down, 0.28 up
  const Tensor log_probs = torch::tensor({1.0F, 1.5F, 0.5F, 1.5F, 0.5F, 0.9F}).log();
  const Tensor advantages = torch::tensor({2.0F, 2.0F, 2.0F, -2.0F, -2.0F, -2.0F});
  const Tensor old = torch::zeros({6});
  // min(3, 1.28 * 2) in the second, min(-1, 0.8 * -2) in the fifth; the third and fourth are worse
  // than their bound.
  const Tensor expected = torch::tensor({-2.0F, -2.56F, -1.0F, 3.0F, 1.6F, 1.8F});
  CHECK(close(policy_loss(log_probs, old, advantages, 0.2, 0.28), expected));
  CHECK(close(policy_loss(log_probs - 7, old - 7, advantages, 0.2, 0.28),
              expected));  // only the ratio matters
  const Tensor clipped = policy_clipped(log_probs, old, advantages, 0.2, 0.28);
  CHECK(torch::equal(clipped, torch::tensor({0, 1, 0, 0, 1, 0}).to(torch::kBool)));
  // -ratio A where the clip does not decide, nothing where it does
  const Tensor slope = gradient(
      log_probs, [&](const Tensor& x) { return policy_loss(x, old, advantages, 0.2, 0.28); });
  CHECK(close(slope, torch::tensor({-2.0F, 0.0F, -1.0F, 3.0F, 0.0F, 1.8F})));
}

TEST_CASE("policy_loss on policy is exactly -A [T25], and a wrong shape throws") {
  const Tensor log_probs = torch::tensor({-0.1F, -3.7F, -11.3F}),
               advantages = torch::tensor({0.3F, -1.7F, 2.9F});
  CHECK(torch::equal(policy_loss(log_probs, log_probs, advantages, 0.0, 0.0), -advantages));
  CHECK_FALSE(policy_clipped(log_probs, log_probs, advantages, 0.0, 0.0).any().item<bool>());
  CHECK_THROWS_AS(policy_loss(log_probs, log_probs, torch::zeros({1, 3}), 0.2, 0.2), c10::Error);
}

TEST_CASE("k1, k2 and k3 by hand") {
  const Tensor log_probs = torch::tensor({0.5F, 0.25F}).log(),
               reference = torch::tensor({0.25F, 0.5F}).log();
  CHECK(close(kl_k1(log_probs, reference), torch::tensor({0.693147F, -0.693147F})));  // ln 2
  CHECK(close(kl_k2(log_probs, reference), torch::tensor({0.240227F, 0.240227F})));  // (ln 2)^2 / 2
  CHECK(close(kl_k3(log_probs, reference),
              torch::tensor({0.193147F, 0.306853F})));  // 1/2 + ln 2 - 1, 2 - ln 2 - 1
}

TEST_CASE("k3 is never negative, not even where exp(d) - d - 1 cancels") {
  const Tensor d = torch::linspace(-25, 25, 5001);
  CHECK((kl_k3(torch::zeros_like(d), d) >= 0).all().item<bool>());
  const Tensor small = torch::tensor({1e-3F, -1e-3F});
  const Tensor expected = torch::tensor({5.001667e-7F, 4.998334e-7F});  // d^2 / 2 + d^3 / 6
  CHECK(torch::allclose(kl_k3(torch::zeros({2}), small), expected, /*rtol=*/1e-3, /*atol=*/0));
}

TEST_CASE(
    "gradients in the mean over the policy: k1 gives nothing, k2 KL(p, q)'s, k3 KL(q, p)'s "
    "[T13]") {
  // p = 1/2, 1/4, 1/4 and q = 1/4, 1/2, 1/4: KL(p, q) = ln 2 / 4 = 0.173287, and with respect to
  // the logits
  //   dKL(p, q) = p (log(p / q) - KL),   dKL(q, p) = p - q
  const Tensor logits = torch::tensor({0.5F, 0.25F, 0.25F}).log(),
               reference = torch::tensor({0.25F, 0.5F, 0.25F}).log();
  const auto mean_gradient = [&](const auto& estimator) {
    return gradient(logits, [&](const Tensor& z) {
      const Tensor log_probs = torch::log_softmax(z, /*dim=*/0);
      return log_probs.detach().exp() * estimator(log_probs, reference);
    });
  };
  CHECK(close(mean_gradient(kl_k1), torch::zeros({3})));
  CHECK(close(mean_gradient(kl_k2), torch::tensor({0.259930F, -0.216608F, -0.043322F})));
  CHECK(close(mean_gradient(kl_k3), torch::tensor({0.25F, -0.25F, 0.0F})));
  // Per token, k2's gradient is log pi - log pi_ref times that of log pi.
  CHECK(close(gradient(logits, [&](const Tensor& x) { return kl_k2(x, reference); }),
              torch::tensor({0.693147F, -0.693147F, 0.0F})));
}

TEST_CASE("KL estimators hold the log-ratio within 20 nats, so nothing overflows [T13]") {
  const Tensor log_probs = torch::tensor({-200.0F, 0.0F}),
               reference = torch::tensor({0.0F, -200.0F});
  CHECK(close(kl_k1(log_probs, reference), torch::tensor({-20.0F, 20.0F})));
  CHECK(close(kl_k2(log_probs, reference), torch::tensor({200.0F, 200.0F})));
  CHECK(close(kl_k3(log_probs, reference),
              torch::tensor({485165174.4F, 19.0F})));  // e^20 - 21, e^-20 + 19
  CHECK(gradient(log_probs, [&](const Tensor& x) { return kl_k3(x, reference); })
            .isfinite()
            .all()
            .item<bool>());
}

TEST_CASE("value_loss by hand, with and without the clip") {
  const Tensor values = torch::tensor({2.0F, 2.0F, 2.0F}), old = torch::tensor({1.0F, 1.0F, 1.8F});
  const Tensor returns = torch::tensor({5.0F, 0.0F, 5.0F});
  CHECK(close(value_loss(values, old, returns, 0.0), torch::tensor({4.5F, 2.0F, 4.5F})));
  // held at 1.5, 1.5, 2: 3.5^2 / 2 beats 4.5, 1.5^2 / 2 does not beat 2, and within the clip
  // nothing changes
  const auto clipped = [&](const Tensor& v) { return value_loss(v, old, returns, 0.5); };
  CHECK(close(clipped(values), torch::tensor({6.125F, 2.0F, 4.5F})));
  CHECK(close(gradient(values, clipped), torch::tensor({0.0F, 2.0F, -3.0F})));
  CHECK_THROWS_AS(value_loss(values, old, torch::zeros({2}), 0.0), c10::Error);
}

TEST_CASE("loss_weights by hand: token, sequence, constant; a masked-out response counts nowhere") {
  const Tensor mask =
      torch::tensor({{1, 1, 1}, {1, 0, 0}, {0, 0, 0}}).to(torch::kBool);  // the third is left out
  const float sixth = 1.0F / 6.0F;
  CHECK(close(loss_weights(mask, Aggregation::token, 10),
              torch::tensor({{.25F, .25F, .25F}, {.25F, 0.F, 0.F}, {0.F, 0.F, 0.F}})));
  CHECK(close(loss_weights(mask, Aggregation::sequence, 10),  // 1/3 / 2 and 1 / 2
              torch::tensor({{sixth, sixth, sixth}, {.5F, 0.F, 0.F}, {0.F, 0.F, 0.F}})));
  CHECK(close(loss_weights(mask, Aggregation::constant, 10),  // 1 / 10 / 2
              torch::tensor({{.05F, .05F, .05F}, {.05F, 0.F, 0.F}, {0.F, 0.F, 0.F}})));
  for (const auto aggregation :
       {Aggregation::token, Aggregation::sequence, Aggregation::constant}) {
    CHECK(torch::equal(loss_weights(torch::zeros({2, 3}, torch::kBool), aggregation, 10),
                       torch::zeros({2, 3})));
  }
}

TEST_CASE(
    "entropy is that of the distribution, not -log p of the sampled token [T32], at the "
    "temperature asked for [T8]") {
  const Tensor hidden = torch::ones({2, 1}),
               weight = torch::tensor({0.5F, 0.25F, 0.25F}).log().unsqueeze(1);
  const Tensor targets = torch::tensor({0, 1});
  const auto cold = token_log_probs(hidden, weight, targets, 1.0, 3, /*with_entropy=*/true);
  CHECK(close(cold.log_probs, torch::tensor({-0.693147F, -1.386294F})));
  CHECK(close(cold.entropies, torch::tensor({1.039721F, 1.039721F})));  // ln 2 / 2 + ln 4 / 2
  // at 2 the probabilities are as their square roots: 0.414214, 0.292893, 0.292893
  const auto warm = token_log_probs(hidden, weight, targets, 2.0, 3, /*with_entropy=*/true);
  CHECK(close(warm.log_probs, torch::tensor({-0.881374F, -1.227947F})));
  CHECK(close(warm.entropies, torch::tensor({1.084392F, 1.084392F})));
}

TEST_CASE(
    "LossTerms add up over micro-batches, log every term and find the one that is not finite") {
  const Tensor x = leaf(torch::tensor({1.0F, 2.0F, 3.0F}));
  LossTerms terms;
  terms.start(torch::tensor({0.5F, 0.25F}));
  terms.add("a", x.narrow(0, 0, 2));                                 // 0.5 + 0.5
  terms.add("b", x.narrow(0, 0, 2).square(), /*coefficient=*/-2.0);  // -2 (0.5 + 1)
  terms.add("only_logged", x.narrow(0, 0, 2), 0);
  CHECK(terms.loss().item<double>() == doctest::Approx(-2.0));
  terms.loss().backward();
  terms.start(torch::tensor({0.25F}));
  terms.add("a", x.narrow(0, 2, 1));                 // 0.75
  terms.add("b", x.narrow(0, 2, 1).square(), -2.0);  // -2 * 2.25
  CHECK(terms.loss().item<double>() == doctest::Approx(-3.75));
  terms.loss().backward();
  CHECK(close(x.grad(), torch::tensor({-1.5F, -1.75F, -2.75F})));  // w (1 - 4 x)
  terms.finish();
  CHECK(terms.sums().at("a") == doctest::Approx(1.75));
  CHECK(terms.sums().at("b") == doctest::Approx(3.75));
  CHECK(terms.sums().at("only_logged") == doctest::Approx(1.0));
  CHECK(terms.sums().at("total") == doctest::Approx(-5.75));
  CHECK(terms.mean("a") == doctest::Approx(1.75));  // the weights add up to 1
  CHECK(terms.not_finite().empty());
  CHECK_THROWS_AS(terms.mean("misspelt"), std::out_of_range);
  LossTerms broken;
  broken.start(torch::tensor({0.5F}));
  broken.add("fine", torch::tensor({1.0F}));
  broken.add("bad", torch::tensor({std::numeric_limits<float>::quiet_NaN()}), 0);
  broken.finish();
  CHECK(broken.not_finite() == "bad");
  CHECK(broken.mean("fine") == doctest::Approx(1.0));  // divided by the weights
}

TEST_CASE("cispo_loss bounds the weight of a token and keeps its gradient [CISPO eq. 4, 5]") {
  // Ratios 1.5, 0.5 and 3 beside the bound 1.2; log pi = ln 1/2 = -0.693147 each
  const Tensor log_probs = torch::tensor({0.5F, 0.5F, 0.5F}).log();
  const Tensor old = log_probs - torch::tensor({1.5F, 0.5F, 3.0F}).log();
  const Tensor advantages = torch::tensor({2.0F, -2.0F, -1.0F});
  const auto loss = [&](const Tensor& x) { return cispo_loss(x, old, advantages, 0.2); };
  CHECK(close(loss(log_probs), torch::tensor({1.663553F, -0.693147F, -0.831777F})));
  // -1.2 * 2, -0.5 * -2 and -1.2 * -1; PPO's clip would have dropped the first
  CHECK(close(gradient(log_probs, loss), torch::tensor({-2.4F, 1.0F, 1.2F})));
  const PolicyTerms terms = policy_terms(PolicyLoss::cispo, log_probs, old, advantages, 0.1, 0.2,
                                         torch::zeros({3}, torch::kInt64));
  CHECK(torch::equal(terms.loss, loss(log_probs)));
  CHECK(torch::equal(terms.clipped, torch::tensor({1, 0, 1}).to(torch::kBool)));
}

TEST_CASE("gspo: the ratio of a response is its tokens' geometric mean [GSPO eq. 7]") {
  // The first response's ratios 4 and 1 make 2; the second's single token has 1.1. Their tokens are
  // not in the order of the responses' numbers.
  const Tensor log_probs = torch::tensor({1.1F, 4.0F, 1.0F}).log() - 3,
               old = torch::full({3}, -3.F);
  const Tensor advantages = torch::tensor({-1.0F, 1.0F, 1.0F});
  const Tensor responses = torch::tensor({5, 2, 2}, torch::kInt64);
  const auto terms = [&](const Tensor& x, double high) {
    return policy_terms(PolicyLoss::gspo, x, old, advantages, 0.2, high, responses);
  };
  CHECK(close(response_means(advantages, responses), advantages));
  CHECK(close(terms(log_probs, 0.2).loss, torch::tensor({1.1F, -1.2F, -1.2F})));
  CHECK(torch::equal(terms(log_probs, 0.2).clipped, torch::tensor({0, 1, 1}).to(torch::kBool)));
  const auto loss = [&](double high) {
    return [&terms, high](const Tensor& x) { return terms(x, high).loss; };
  };
  CHECK(close(gradient(log_probs, loss(0.2)), torch::tensor({1.1F, 0.0F, 0.0F})));
  // Unclipped, each token of the first has the two losses' slope s / 2: -2 * 2 / 2.
  CHECK(close(gradient(log_probs, loss(2.0)), torch::tensor({1.1F, -2.0F, -2.0F})));
  // Advantages 3 and -1 act as 1 and 1, so beyond the clip as well, where nothing is left.
  const Tensor mixed = torch::tensor({-1.0F, 3.0F, -1.0F});
  const auto of_mixed = [&](const Tensor& x) {
    return policy_terms(PolicyLoss::gspo, x, old, mixed, 0.2, 0.2, responses).loss;
  };
  CHECK(close(of_mixed(log_probs), torch::tensor({1.1F, -1.2F, -1.2F})));
  CHECK(close(gradient(log_probs, of_mixed), torch::tensor({1.1F, 0.0F, 0.0F})));
}
