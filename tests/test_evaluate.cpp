#include <doctest/doctest.h>

#include "tasks/countdown/countdown.h"
#include "tasks/math/math.h"
#include "tiny_zero/verbs/evaluate.h"

using namespace tiny_zero;

namespace {

void check_interval(const std::vector<double>& values, double mean, double low, double high) {
  const Estimate estimate = estimate_mean(values);
  CHECK(estimate.mean == doctest::Approx(mean));
  CHECK(estimate.low == doctest::Approx(low).epsilon(1e-4));
  CHECK(estimate.high == doctest::Approx(high).epsilon(1e-4));
}

}  // namespace

TEST_CASE("pass_at_k by hand") {
  CHECK(pass_at_k(5, 2, 2) == doctest::Approx(0.7));           // 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10
  CHECK(pass_at_k(10, 3, 5) == doctest::Approx(11.0 / 12.0));  // 1 - 21 / 252
  CHECK(pass_at_k(8, 3, 1) == doctest::Approx(3.0 / 8.0));
  CHECK(pass_at_k(4, 0, 4) == doctest::Approx(0.0));
  CHECK(pass_at_k(4, 1, 4) == doctest::Approx(1.0));
  CHECK(pass_at_k(5, 4, 2) ==
        doctest::Approx(1.0));  // two of five with one wrong: a right one is among them
  CHECK(pass_at_k(2000, 1, 1000) == doctest::Approx(0.5));  // C(2000, 1000) would overflow
}

TEST_CASE("estimate_mean of right and wrong is Wilson's interval") {
  check_interval({1, 1, 1, 1, 0, 1, 1, 1, 1, 0}, 0.8, 0.49016,
                 0.94332);  // 8 of 10, as in the tables
}

TEST_CASE("estimate_mean of equal values is not a point, though their mean is not exact") {
  // z^2 / (n + z^2) = 3.84146 / 13.84146 with n = 10
  check_interval(std::vector<double>(10, 0.0), 0.0, 0.0, 0.27753);
  check_interval(std::vector<double>(10, 1.0), 1.0, 0.72247, 1.0);
  check_interval(std::vector<double>(10, 0.3), 0.3, 0.10779, 0.60322);  // 3 of 10
}

TEST_CASE(
    "estimate_mean: samples of one problem that agree count as one, those that differ as more") {
  // Per-problem means of ten problems. All 0 or 1: n = 10. 1/4 and 3/4: variance 1/16 is that of 40
  // coin flips.
  check_interval({0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, 0.5, 0.23659, 0.76341);
  check_interval({.25, .75, .25, .75, .25, .75, .25, .75, .25, .75}, 0.5, 0.35200, 0.64800);
}

TEST_CASE(
    "majority: equal strings vote together, for math equivalent answers; ties go to the one given "
    "first") {
  const countdown::Countdown strings;
  CHECK(majority(strings, {"", "7", "36", "7", "36", ""}) == 1);
  CHECK(majority(strings, {"1/2", "3", "0.5", "3"}) == 1);
  CHECK(majority(strings, {"", ""}) == -1);
  CHECK(majority(strings, {}) == -1);
  const math::Math task;
  CHECK(majority(task, {"3", "\\frac{1}{2}", "3", "0.5", "2^{-1}"}) == 1);
  CHECK(majority(task, {"1,2", "3", "2,1", "3"}) == 0);
  CHECK(majority(task, {"\\oops{", "5", "\\oops{"}) == 0);  // unreadable, but the same text
}
