#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <sstream>

#include "tasks/byte_tokenizer.h"
#include "tasks/countdown/countdown.h"
#include "tasks/math/math.h"
#include "tiny_zero/random.h"
#include "tiny_zero/rollout.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/evaluate.h"

using namespace tiny_zero;

namespace {

void check_interval(const std::vector<double>& values, int64_t samples, double mean, double low,
                    double high) {
  const Estimate estimate = estimate_mean(values, samples);
  CHECK(estimate.mean == doctest::Approx(mean));
  CHECK(estimate.low == doctest::Approx(low).epsilon(1e-4));
  CHECK(estimate.high == doctest::Approx(high).epsilon(1e-4));
}

/// Prompts of their own split; the answer is the first letter, and an "a" is right.
struct Letters : Task {
  Problem problem(Split split, int64_t index) const override {
    std::string prompt(static_cast<size_t>(index) + 1, 'b');
    prompt[0] = split == Split::test ? 't' : 'r';
    return {prompt, "a"};
  }
  Grade grade(const Problem&, std::string_view response, bool) const override {
    return {.correct = response.starts_with("a"), .answered = !response.empty()};
  }
  std::string answer(const Problem&, std::string_view response) const override {
    return std::string(response.substr(0, 1));
  }
};

/// A random model that writes the letters a, b, r and t.
std::filesystem::path letter_model() {
  const auto path =
      std::filesystem::temp_directory_path() / ("tiny_zero_evaluate_" + std::to_string(getpid()));
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = 5;
  config.hidden_size = config.ffn_size = 32;
  config.num_layers = 1;
  config.attention = {2, 1, 16};
  config.max_positions = 64;
  config.end_ids = {4};
  const at::NoGradGuard no_grad;
  Model model(config, Head::language_model, /*seed=*/1, torch::kCPU);
  model.parameters().mul_(6);  // else every letter is as likely as any other
  model.save(path);
  constexpr std::string_view kWords[] = {"<|end|>"};
  write_text(path / "tokenizer.json", byte_tokenizer_json("abrt", kWords));
  return path;
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
  // 8 of 10, as in the tables
  check_interval({1, 1, 1, 1, 0, 1, 1, 1, 1, 0}, /*samples=*/1, 0.8, 0.49016, 0.94332);
}

TEST_CASE("estimate_mean of equal values is not a point, though their mean is not exact") {
  // z^2 / (n + z^2) = 3.84146 / 13.84146 with n = 10
  check_interval(std::vector<double>(10, 0.0), /*samples=*/4, 0.0, 0.0, 0.27753);
  check_interval(std::vector<double>(10, 1.0), /*samples=*/4, 1.0, 0.72247, 1.0);
  check_interval(std::vector<double>(10, 0.3), /*samples=*/10, 0.3, 0.10779, 0.60322);  // 3 of 10
  check_interval({0.5}, /*samples=*/4, 0.5, 0.05462, 0.94538);                          // n = 1
}

TEST_CASE("estimate_mean counts samples of one problem as one if they agree, as more if not") {
  // All 0 or 1, four samples each: variance 5/18, design effect 5/18 / 10 / (1/4 / 39) = 4.3333,
  // t ratio 2.02269 / 2.26216, so n = 40 / 4.3333 * 0.79949 = 7.3799.
  check_interval({0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, /*samples=*/4, 0.5, 0.20745, 0.79255);
  // 1/4 and 3/4: a quarter of that variance, so n = 29.520.
  const std::vector<double> quarters{.25, .75, .25, .75, .25, .75, .25, .75, .25, .75};
  check_interval(quarters, /*samples=*/4, 0.5, 0.33033, 0.66967);
  // 9/20 and 11/20 vary less than 20 independent samples would: n = 10 * 20.
  const std::vector<double> twentieths{.45, .55, .45, .55, .45, .55, .45, .55, .45, .55};
  check_interval(twentieths, /*samples=*/20, 0.5, 0.43136, 0.56864);
}

namespace {

/// A Beta(a, b) number: the a-th smallest of a + b - 1 uniform ones. b = 0 is the constant 1/a.
double beta(int64_t a, int64_t b, Random& random) {
  if (b == 0) return 1.0 / static_cast<double>(a);
  std::vector<double> uniform(a + b - 1);
  for (double& number : uniform) number = unit_interval(random.next());
  std::sort(uniform.begin(), uniform.end());
  return uniform[a - 1];
}

/// How often the interval holds the true mean of pass@j over 2,000 evaluations of `problems`
/// problems, whose rates are Beta(a, b), with k samples each.
double coverage(int64_t problems, int64_t k, int64_t j, int64_t a, int64_t b) {
  double none = 1;  // E[(1 - rate)^j]
  for (int64_t i = 0; i < j; ++i)
    none *= b == 0 ? 1 - 1.0 / static_cast<double>(a)
                   : static_cast<double>(b + i) / static_cast<double>(a + b + i);
  constexpr uint64_t kRuns = 2000;
  int64_t held = 0;
  for (uint64_t run = 0; run < kRuns; ++run) {
    Random random(/*seed=*/0, /*stream=*/0, run);
    std::vector<double> values;
    for (int64_t p = 0; p < problems; ++p) {
      const double rate = beta(a, b, random);
      int64_t right = 0;
      for (int64_t i = 0; i < k; ++i) right += random.chance(rate) ? 1 : 0;
      values.push_back(pass_at_k(k, right, j));
    }
    const Estimate estimate = estimate_mean(values, k / j);
    held += estimate.low <= 1 - none && 1 - none <= estimate.high ? 1 : 0;
  }
  return static_cast<double>(held) / kRuns;
}

}  // namespace

TEST_CASE("intervals from few problems hold the true mean 95 % of the time, at least 93.5 %") {
  // One standard deviation of a coverage is 0.5 %. Beta(1, 1): any rate; (2, 8): mostly low;
  // (5, 5): near 1/2; the constant 1/3.
  for (const auto& [a, b] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 8}, {5, 5}, {3, 0}}) {
    for (const int64_t problems : {10, 20, 50}) {
      for (const int64_t k : {4, 16}) {
        CAPTURE(a);
        CAPTURE(b);
        CAPTURE(problems);
        CAPTURE(k);
        const double held = coverage(problems, k, /*j=*/1, a, b);
        CHECK(held >= 0.935);
        CHECK(held <= 0.985);
      }
    }
  }
  for (const int64_t problems : {10, 50})  // were each value worth 16 samples: 84 % at 10 problems
    CHECK(coverage(problems, /*k=*/16, /*j=*/8, 1, 1) >= 0.935);
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

TEST_CASE("has_loop: one piece three times in a row, 20 tokens or more") {
  const auto loops = [](const std::string& text) {
    return has_loop(std::vector<int64_t>(text.begin(), text.end()));
  };
  CHECK(loops("so 1+2=3 no. wait, 1+2=3 no. wait, 1+2=3 no. wait, "));
  CHECK(loops("2+3=5 no. wait, 1+2=3 no. wait, 1+2=3 no. wait, 1+2=3 no. so 4"));  // and out of it
  CHECK(!loops("1+2=3 no. wait, 1+2=3 no. wait, 4"));                              // twice
  CHECK(!loops("1+2=3 no. wait, 1+2=3 no. wait, 1+3=4 no. wait, 1+2=3 no. wait, "));
  CHECK(loops("1 " + std::string(20, '.') + "2"));
  CHECK(!loops("1 " + std::string(19, '.') + "2"));
  CHECK(!loops("and so on..."));
  CHECK(!loops(""));
  // Texts of two letters, against the definition.
  int64_t found = 0;
  for (int64_t bits = 0; bits < 1 << 14; ++bits) {
    std::string text;
    for (int i = 0; i < 14; ++i) text += std::string(2, bits >> i & 1 ? 'a' : 'b');
    bool expected = false;
    for (size_t p = 1; p <= text.size() / 3; ++p) {
      const size_t least = std::max<size_t>(20, 3 * p);
      for (size_t first = 0; first + least <= text.size(); ++first) {
        bool periodic = true;
        for (size_t i = first; i + p < first + least; ++i)
          periodic = periodic && text[i] == text[i + p];
        expected = expected || periodic;
      }
    }
    CHECK(loops(text) == expected);
    found += expected;
  }
  CHECK(found > 10);
  std::vector<int64_t> longest;
  for (int64_t i = 0; i < 3 * 512; ++i) longest.push_back(i % 512);
  CHECK(has_loop(longest));
  longest.front() = -1;
  CHECK(!has_loop(longest));
}

/// evaluate() with its responses in the model's directory, and what it prints kept off the screen.
static Json evaluate_quietly(Config& config, const Task& task) {
  config.json = "-";
  config.responses = config.model + "/responses.jsonl";
  std::ostringstream printed;
  std::streambuf* const terminal = std::cout.rdbuf(printed.rdbuf());
  Json report = evaluate(config, task);
  std::cout.rdbuf(terminal);
  return report;
}

TEST_CASE("evaluate counts the responses with a loop, sampled and greedy apart") {
  const Letters task;
  Config config;
  config.model = letter_model().string();
  config.eval_problems = 20;  // prompts of up to 20 tokens
  config.eval_samples = 2;
  config.max_response_tokens = 40;
  config.temperature = 4;
  const Json report = evaluate_quietly(config, task);
  std::ifstream file(config.responses);
  int64_t looped = 0;
  for (std::string line; std::getline(file, line);) {  // a letter is a token
    const auto text = Json::parse(line)["response"].get<std::string>();
    looped += has_loop(std::vector<int64_t>(text.begin(), text.end()));
  }
  CHECK(report["rates"]["repeats"]["hits"] == looped);
  CHECK(looped < 5);
  CHECK(report["rates"]["greedy repeats"]["hits"] > looped);  // a random model has no way out
  std::filesystem::remove_all(config.model);
}

TEST_CASE("evaluate reports what its responses say: split, accuracy, maj@k, greedy") {
  const Letters task;
  Config config;
  config.model = letter_model().string();
  config.eval_problems = 40;
  config.eval_samples = 8;
  config.max_response_tokens = 2;
  const Json report = evaluate_quietly(config, task);

  std::ifstream file(config.responses);
  double right = 0, majorities = 0, firsts = 0;
  for (int64_t p = 0; p < 40; ++p) {
    std::map<std::string, int64_t> votes;
    std::vector<std::string> letters;
    for (int64_t i = 0; i < 8; ++i) {
      std::string line;
      REQUIRE(std::getline(file, line));
      const Json row = Json::parse(line);
      CHECK(row["prompt"] == "t" + std::string(static_cast<size_t>(p), 'b'));  // the test split's
      letters.push_back(row["response"].get<std::string>().substr(0, 1));
      right += letters.back() == "a";
      votes[letters.back()] += !letters.back().empty();
    }
    int64_t most = 0;
    for (const auto& [letter, count] : votes) most = std::max(most, count);
    const auto winner = std::find_if(letters.begin(), letters.end(),
                                     [&](const auto& letter) { return votes[letter] == most; });
    majorities += *winner == "a";
    firsts += letters[0] == "a";
  }
  CHECK(report["accuracy"]["mean"].get<double>() == doctest::Approx(right / 320));
  CHECK(report["maj@8"]["mean"].get<double>() == doctest::Approx(majorities / 40));
  CHECK(majorities != firsts);  // else the first response would do

  const LoadedModel loaded = load_model(config);
  Sampler sampler(loaded.model, sampling_options(config, /*temperature=*/0));
  std::vector<Problem> problems;
  for (int64_t p = 0; p < 40; ++p) problems.push_back(task.problem(Split::test, p));
  double greedy = 0;
  for (const auto& text : sampler.sample(loaded.tokenizer, problems, 1, /*call=*/0).texts)
    greedy += text.starts_with("a");
  CHECK(report["greedy"]["mean"].get<double>() == doctest::Approx(greedy / 40));
  CHECK(greedy / 40 != doctest::Approx(right / 320).epsilon(0.1));
  CHECK(report["rates"]["repeats"]["trials"] == 320);
  CHECK(report["rates"]["repeats"]["hits"] == 0);  // of two tokens
  CHECK(report["rates"]["greedy repeats"]["trials"] == 40);
  std::filesystem::remove_all(config.model);
}
