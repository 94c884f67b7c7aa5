// Sampling: who owns which token. End token 0 is also the padding, so any mask made from ids
// instead of lengths shows.

#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "tiny_zero/advantage.h"
#include "tiny_zero/methods/process_supervision.h"
#include "tiny_zero/rollout.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

using Sequences = std::vector<std::vector<int64_t>>;
const Sequences kPrompts{{5, 0, 7},        {9}, {1, 2, 3, 4, 5, 6, 7, 8}, {0, 0},
                         {19, 18, 17, 16}, {9}, {3, 14, 15, 9, 2, 6}};

Model tiny_model(int64_t vocab_size = 24, std::vector<int64_t> end_ids = {0},
                 int64_t head_dim = 16) {
  const at::NoGradGuard no_grad;
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = vocab_size;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.attention = {2, 1, head_dim};
  config.ffn_size = 32;
  config.max_positions = 40;
  config.end_ids = std::move(end_ids);
  Model model(config, Head::language_model, /*seed=*/1, torch::kCPU);
  auto generator = at::detail::createCPUGenerator(3);
  model.parameters().add_(
      torch::randn(model.parameters().sizes(), generator, torch::TensorOptions()) * 0.15);
  return model;
}

SamplingOptions options(double temperature = 1.0, int64_t batch = 512, uint64_t seed = 7) {
  return {temperature, /*top_p=*/1.0, /*max_response_tokens=*/20, batch, seed};
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>();
}

std::vector<int64_t> response(const Rollout& rollout, int64_t i) {
  const int64_t* ids = rollout.response_ids[i].data_ptr<int64_t>();
  return {ids, ids + rollout.lengths[i]};
}

/// Two prompts, two responses each, written by hand.
Rollout by_hand() {
  Rollout rollout;
  rollout.group_size = 2;
  rollout.prompts = {{10, 11, 12}, {20}};
  rollout.problems = {{"first", "1"}, {"second", "2"}};
  rollout.response_ids = torch::tensor({{5, 0, 0}, {7, 0, 0}, {8, 9, 1}, {2, 3, 0}}, torch::kInt64);
  rollout.lengths = {2, 1, 3, 2};  // the first ends with 0, a real token
  rollout.finished = {true, false, false, true};
  rollout.log_probs = -torch::arange(1.0F, 13.0F).view({4, 3});
  rollout.mask = torch::tensor({{1, 1, 0}, {1, 0, 0}, {1, 1, 1}, {1, 1, 0}}).to(torch::kBool);
  rollout.texts = {"a", "b", "c", "d"};
  rollout.grades.resize(4);
  rollout.rewards = torch::tensor({1.0F, 1.0F, 0.0F, 1.0F});
  return rollout;
}

/// The reward is the gold answer's number plus 10 if the response was finished.
struct NumberTask : Task {
  Problem problem(Split, int64_t) const override { return {}; }
  Grade grade(const Problem& problem, std::string_view, bool finished) const override {
    return {.reward = std::stod(problem.gold) + (finished ? 10 : 0)};
  }
  std::string answer(const Problem&, std::string_view) const override { return ""; }
};

}  // namespace

TEST_CASE("responses do not depend on how many are sampled side by side") {
  const Model model = tiny_model();
  const Rollout few = Sampler(model, options(1.0, /*batch=*/4)).sample(kPrompts, 3, 0);
  const Rollout all = Sampler(model, options(1.0, /*batch=*/64)).sample(kPrompts, 3, 0);
  CHECK(few.lengths == all.lengths);
  CHECK(torch::equal(few.response_ids, all.response_ids));
  CHECK(largest_difference(few.log_probs, all.log_probs) < 1e-4);
}

TEST_CASE("the same seed and call give the same bytes, another call or seed others") {
  const Model model = tiny_model();
  Sampler sampler(model, options());
  const Rollout first = sampler.sample(kPrompts, 2, /*call=*/5);
  const Rollout other = sampler.sample(kPrompts, 2, /*call=*/6);
  const Rollout again =
      sampler.sample(kPrompts, 2, /*call=*/5);  // its cache holds what the others left
  CHECK(torch::equal(again.response_ids, first.response_ids));
  CHECK(torch::equal(again.log_probs, first.log_probs));
  CHECK(response(other, 0) != response(first, 0));
  CHECK(response(Sampler(model, options(1.0, 512, /*seed=*/8)).sample(kPrompts, 2, 5), 0) !=
        response(first, 0));
}

TEST_CASE(
    "a response stops with its end token, which counts; a truncated one gets none [T1, T15]") {
  for (const std::vector<int64_t>& end_ids : Sequences{{0}, {4, 11}}) {
    const Model model = tiny_model(24, end_ids);
    const Rollout rollout = Sampler(model, options()).sample(kPrompts, 8, 0);
    int64_t finished = 0;
    for (int64_t i = 0; i < rollout.size(); ++i) {
      const auto ids = response(rollout, i);
      const auto end = std::find_first_of(ids.begin(), ids.end(), end_ids.begin(), end_ids.end());
      CHECK(rollout.finished[i] == (end != ids.end()));
      if (rollout.finished[i]) CHECK(end == ids.end() - 1);
      if (!rollout.finished[i]) CHECK(ids.size() == 20);
      CHECK(rollout.mask[i].sum().item<int64_t>() == rollout.lengths[i]);
      CHECK(rollout.mask[i][rollout.lengths[i] - 1].item<bool>());
      CHECK(rollout.log_probs[i].slice(0, 0, rollout.lengths[i]).max().item<double>() < 0);
      CHECK(rollout.log_probs[i].slice(0, rollout.lengths[i]).abs().sum().item<double>() == 0);
      finished += rollout.finished[i] ? 1 : 0;
    }
    CHECK(finished > 5);  // both sorts occur
    CHECK(rollout.size() - finished > 5);
  }
}

TEST_CASE("sampling and scoring see one distribution, at any temperature [T8, T10]") {
  Model model = tiny_model();
  model.limit_vocabulary(20);
  for (const double temperature : {1.0, 0.7}) {
    CAPTURE(temperature);
    const Rollout rollout = Sampler(model, options(temperature)).sample(kPrompts, 4, 0);
    CHECK(rollout.response_ids.max().item<int64_t>() < 20);
    for (const int64_t max_tokens : {1, 100}) {
      CHECK(largest_difference(score_log_probs(model, rollout, temperature, max_tokens),
                               rollout.log_probs) < 1e-4);
    }
  }
  SamplingOptions one_token = options();
  one_token.max_response_tokens = 1;
  const Rollout first = Sampler(model, one_token).sample({kPrompts[0]}, 4000, 0);
  const Tensor frequency = torch::bincount(first.response_ids.flatten(), {}, 20) / 4000.0;
  const Tensor law = torch::zeros({20}).index_put_({first.response_ids.flatten()},
                                                   first.log_probs.flatten().exp());
  CHECK(largest_difference(frequency, law) < 0.035);  // 4.4 standard errors at worst
}

TEST_CASE("greedy responses of a group are one response") {
  const Model model = tiny_model();
  const Rollout rollout = Sampler(model, options(/*temperature=*/0.0)).sample(kPrompts, 3, 0);
  for (int64_t i = 0; i < rollout.size(); ++i)
    CHECK(response(rollout, i) == response(rollout, i / 3 * 3));
}

TEST_CASE("prompts that do not fit are refused, the longest that fits is answered") {
  const Model model = tiny_model();  // 40 positions, 20 of them for the response
  Sampler sampler(model, options());
  CHECK_THROWS_WITH_AS(sampler.sample({std::vector<int64_t>(21, 1)}, 1, 0),
                       doctest::Contains("max-response-tokens"), std::invalid_argument);
  CHECK_THROWS_AS(sampler.sample(Sequences{{}}, 1, 0), std::invalid_argument);
  const Rollout longest = sampler.sample({std::vector<int64_t>(20, 1)}, 8, 0);
  CHECK(largest_difference(score_log_probs(model, longest, 1.0, 1000), longest.log_probs) < 1e-4);
}

TEST_CASE("responses keep the sampled ids where their text would be split otherwise [T21]") {
  const auto tokenizer = Tokenizer::from_file(TEST_DATA_DIR "/tokenizer/gpt2/tokenizer.json");
  const auto vocab_size = static_cast<int64_t>(tokenizer.vocab_size());
  const Model model = tiny_model(vocab_size, {12});
  const Rollout rollout =
      Sampler(model, options()).sample(tokenizer, {{"abc", "1"}, {"the cat", "2"}}, 4, 0);
  CHECK(rollout.prompts[1] == tokenizer.encode("the cat"));
  int64_t split_otherwise = 0;
  for (int64_t i = 0; i < rollout.size(); ++i) {
    auto ids = response(rollout, i);
    if (rollout.finished[i]) ids.pop_back();  // the end token is no text
    CHECK(rollout.texts[i] == tokenizer.decode(ids));
    split_otherwise += tokenizer.encode(rollout.texts[i]) != ids ? 1 : 0;
    const auto batch = make_scoring_batch(rollout, {i}, model);
    CHECK(torch::equal(batch.targets, rollout.response_ids[i].slice(0, 0, rollout.lengths[i])));
  }
  CHECK(split_otherwise > 0);  // else this proves nothing
}

TEST_CASE("a response ends with the token that completes the stop text, which counts [T1]") {
  const auto tokenizer = Tokenizer::from_file(TEST_DATA_DIR "/tokenizer/gpt2/tokenizer.json");
  const Model model = tiny_model(static_cast<int64_t>(tokenizer.vocab_size()), {12});
  const std::vector<Problem> problems{{"abc", "1"}, {"the cat", "2"}, {"x", "3"}};
  const Rollout free = Sampler(model, options()).sample(tokenizer, problems, 8, 0);
  const auto text_of = [&](const std::vector<int64_t>& ids) { return tokenizer.decode(ids); };
  const auto first = response(free, 0);
  REQUIRE(first.size() > 6);
  // Within one token; from within one token into the next; over three.
  const std::string second = text_of({first[1]}), third = text_of({first[2]}),
                    fourth = text_of({first[3]});
  for (const std::string& stop :
       {third.substr(third.size() / 2), second.substr(second.size() - 1) + third.substr(0, 1),
        second.substr(second.size() - 1) + third + fourth.substr(0, 1)}) {
    CAPTURE(stop);
    std::vector<Rollout> stopped;
    for (const int64_t batch : {8, 512}) {
      SamplingOptions with_stop = options(1.0, batch);
      with_stop.stop_text = stop;
      stopped.push_back(Sampler(model, with_stop).sample(tokenizer, problems, 8, 0));
    }
    CHECK(stopped[0].lengths == stopped[1].lengths);
    CHECK(torch::equal(stopped[0].response_ids, stopped[1].response_ids));
    const Rollout& rollout = stopped[1];
    int64_t by_text = 0;
    for (int64_t i = 0; i < rollout.size(); ++i) {
      CAPTURE(i);
      auto expected = response(free, i);
      size_t length = 1;
      while (
          length < expected.size() &&
          text_of({expected.begin(), expected.begin() + static_cast<int64_t>(length)}).find(stop) ==
              std::string::npos)
        ++length;
      expected.resize(length);
      CHECK(response(rollout, i) == expected);
      const bool ended = expected.back() == 12;
      const bool complete = text_of(expected).find(stop) != std::string::npos;
      CHECK(rollout.finished[i] == (ended || complete));
      CHECK(rollout.mask[i].sum().item<int64_t>() == static_cast<int64_t>(length));
      CHECK(rollout.log_probs[i][static_cast<int64_t>(length) - 1].item<double>() < 0);
      if (ended) expected.pop_back();
      CHECK(rollout.texts[i] == text_of(expected));  // with the stop text in full
      by_text += complete && !ended ? 1 : 0;
    }
    CHECK(by_text > 0);
    CHECK(rollout.finished[0]);
    CHECK(rollout.texts[0].find(stop) != std::string::npos);
    CHECK(largest_difference(rollout.log_probs[0].slice(0, 0, rollout.lengths[0]),
                             free.log_probs[0].slice(0, 0, rollout.lengths[0])) < 1e-4);
    CHECK(largest_difference(score_log_probs(model, rollout, 1.0, 1000), rollout.log_probs) < 1e-4);
  }
}

TEST_CASE("sampling tells its progress, up to all responses") {
  const Model model = tiny_model();
  SamplingOptions watched = options(1.0, /*batch=*/4);
  std::vector<int64_t> told;
  watched.on_progress = [&](int64_t done, int64_t total) {
    CHECK(total == 21);
    told.push_back(done);
  };
  Sampler(model, watched).sample(kPrompts, 3, 0);
  CHECK(std::is_sorted(told.begin(), told.end()));
  CHECK(told.size() > 7);  // one prompt a batch, and several positions each
  CHECK(told.back() == 21);
}

TEST_CASE("a scoring batch points each response token at the position before it") {
  const Rollout rollout = by_hand();
  const Model model = tiny_model();
  const auto batch = make_scoring_batch(rollout, {2, 0}, model);
  const auto equals = [](const Tensor& found, const std::vector<int64_t>& wanted) {
    CHECK(torch::equal(found, torch::tensor(wanted, torch::kInt64)));
  };
  equals(batch.tokens.ids,
         {20, 8, 9, 10, 11, 12, 5});  // the last token of a response predicts nothing
  CHECK(batch.tokens.starts == std::vector<int64_t>{0, 3, 7});
  equals(batch.positions, {0, 1, 2, 5, 6});
  equals(batch.targets, {8, 9, 1, 5, 0});
  equals(batch.rows, {2, 2, 2, 0, 0});
  equals(batch.columns, {0, 1, 2, 0, 1});
  CHECK(torch::equal(batch.pick(rollout.log_probs),
                     torch::tensor({-7.0F, -8.0F, -9.0F, -1.0F, -2.0F})));
  // A prompt stands there once for its responses: both begin after its last token.
  const auto group = make_scoring_batch(rollout, {0, 1, 3}, model);
  equals(group.tokens.ids, {10, 11, 12, 5, 20, 2});
  CHECK(group.tokens.starts == std::vector<int64_t>{0, 4, 4, 6});
  CHECK(group.tokens.shared == std::vector<int64_t>{0, 3, 0});
  CHECK(group.tokens.count() == 9);
  equals(group.positions, {2, 3, 2, 4, 5});
  equals(group.targets, {5, 0, 7, 2, 3});
  // Where sequences share nothing it stands before each.
  const auto apart = make_scoring_batch(rollout, {0, 1, 3}, tiny_model(24, {0}, /*head_dim=*/8));
  equals(apart.tokens.ids, {10, 11, 12, 5, 10, 11, 12, 20, 2});
  CHECK(apart.tokens.shared == std::vector<int64_t>{0, 0, 0});
  equals(apart.positions, {2, 3, 6, 7, 8});
}

TEST_CASE("micro-batches hold every response once and no more tokens than allowed") {
  Rollout rollout;
  rollout.group_size = 4;
  rollout.prompts = {std::vector<int64_t>(6, 1), std::vector<int64_t>(2, 1)};
  rollout.lengths = {4, 1, 14, 2, 3, 8, 1, 5};  // with prompts 10, 7, 20, 8, 5, 10, 3, 7
  const std::vector<int64_t> totals{10, 7, 20, 8, 5, 10, 3, 7}, chosen{7, 0, 1, 2, 3, 5, 6};
  const Model sharing = tiny_model(), apart = tiny_model(24, {0}, /*head_dim=*/8);
  for (const Model* model : {&sharing, &apart}) {
    for (const int64_t max_tokens : {1, 10, 17, 20, 1000}) {
      CAPTURE(max_tokens);
      std::vector<int64_t> seen;
      const auto batches = micro_batches(rollout, chosen, max_tokens, *model);
      for (const auto& batch : batches) {
        std::set<int64_t> prompts;
        int64_t tokens = 0;
        for (const int64_t i : batch) {
          const bool again = !prompts.insert(i / 4).second && model == &sharing;
          tokens += again ? rollout.lengths[i] : totals[i];
        }
        CHECK(!batch.empty());
        CHECK((tokens <= max_tokens || batch.size() == 1));
        seen.insert(seen.end(), batch.begin(), batch.end());
      }
      const bool in_order = std::ranges::is_sorted(seen);
      CHECK(in_order == (model == &sharing));  // as groups stand, else by length
      std::ranges::sort(seen);
      CHECK(seen == std::vector<int64_t>{0, 1, 2, 3, 5, 6, 7});
      if (max_tokens == 1000) CHECK(batches.size() == 1);
      if (max_tokens == 17) CHECK(batches.size() == (model == &sharing ? 4 : 5));
    }
  }
}

TEST_CASE("the same prompt twice makes two groups [T29]") {
  const Model model = tiny_model();
  Rollout rollout = Sampler(model, options()).sample({{9, 4}, {9, 4}}, 4, 0);
  CHECK(rollout.size() == 8);
  std::set<std::vector<int64_t>> different;
  for (int64_t i = 0; i < 8; ++i) different.insert(response(rollout, i));
  CHECK(different.size() > 4);  // the second group is no copy of the first
  rollout.rewards = torch::tensor({1, 1, 1, 1, 0, 0, 1, 0}).to(torch::kFloat32);
  CHECK(mixed_groups(rollout) == std::vector<int64_t>{1});
}

TEST_CASE("grades go to the responses of their own problem") {
  Rollout rollout = by_hand();
  grade(NumberTask(), rollout);
  CHECK(torch::equal(rollout.rewards, torch::tensor({11.0F, 1.0F, 2.0F, 12.0F})));
  CHECK(rollout.grades[3].reward == 12.0);
}

TEST_CASE("rollouts joined and taken apart keep each row's own things") {
  const Rollout rollout = by_hand();
  const Rollout narrow =
      select_prompts(rollout, {0});  // only the first prompt's responses, at most 2 tokens long
  CHECK(narrow.response_ids.size(1) == 2);
  const Rollout joined = concatenate(narrow, rollout);  // a narrow table before a wide one
  CHECK(joined.prompts.size() == 3);
  const Rollout swapped = select_prompts(joined, {2, 0});
  CHECK(swapped.prompts == Sequences{{20}, {10, 11, 12}});
  CHECK(swapped.problems[0].prompt == "second");
  CHECK(swapped.lengths == std::vector<int64_t>{3, 2, 2, 1});
  CHECK(swapped.finished == std::vector<bool>{false, true, true, false});
  CHECK(swapped.texts == std::vector<std::string>{"c", "d", "a", "b"});
  CHECK(torch::equal(swapped.rewards, torch::tensor({0.0F, 1.0F, 1.0F, 1.0F})));
  const Tensor rows = torch::tensor({2, 3, 0, 1});
  CHECK(torch::equal(swapped.response_ids, rollout.response_ids.index_select(0, rows)));
  CHECK(torch::equal(swapped.mask, rollout.mask.index_select(0, rows)));
  CHECK(torch::equal(swapped.log_probs * swapped.mask,
                     (rollout.log_probs * rollout.mask).index_select(0, rows)));
  Rollout other = rollout;
  other.group_size = 4;
  CHECK_THROWS_AS(concatenate(rollout, other), c10::Error);
}

TEST_CASE("collect without dynamic sampling takes the round as it is, its rewards shaped [T16]") {
  Config config;
  config.prompts_per_step = 2;
  config.truncated = Truncated::penalise;
  config.truncation_penalty = -0.5;
  Rollout round = by_hand();
  round.grades[0].correct = round.grades[1].answered = round.grades[3].correct = true;
  const Collection collected = collect([&] { return round; }, config);
  const Tensor shaped = torch::tensor({1.0F, -0.5F, -0.5F, 1.0F});
  CHECK(torch::equal(collected.rollout.rewards, shaped));
  CHECK(torch::equal(collected.sampled_rewards, shaped));
  CHECK(torch::equal(collected.rollout.response_ids, round.response_ids));
  CHECK(collected.kept_groups == std::vector<int64_t>{0, 1});
  CHECK(collected.sampled.rounds == 1);
  CHECK(collected.sampled.responses == 4);
  CHECK(collected.sampled.tokens == 8);
  CHECK(collected.sampled.correct == 2);
  CHECK(collected.sampled.answered == 1);
  CHECK(collected.sampled.truncated == 2);
  CHECK(collected.sampled.zero_std_groups == 0);  // the penalty made both groups differ
  CHECK(collected.sampled.reward_sum == doctest::Approx(1.0));
}

TEST_CASE("collect with dynamic sampling keeps mixed groups and counts all of them [DAPO, T37]") {
  Config config;
  config.prompts_per_step = 2;
  config.dynamic_sampling = true;
  std::vector<std::vector<float>> rounds{{0, 0, 1, 1}, {0, 1, 1, 1}, {1, 0, 0, 1}};
  size_t at = 0;
  const auto sample_round = [&] {
    Rollout round = by_hand();
    round.rewards = torch::tensor(rounds[at % rounds.size()]);
    round.problems[0].gold = std::to_string(2 * at);
    round.problems[1].gold = std::to_string(2 * at + 1);
    for (Grade& grade : round.grades) grade.correct = at == 0;
    ++at;
    return round;
  };
  const Collection collected = collect(sample_round, config);
  CHECK(at == 3);  // groups 2 and 4 are mixed; the sixth is not needed
  CHECK(collected.kept_groups == std::vector<int64_t>{2, 4});
  CHECK(torch::equal(collected.rollout.rewards, torch::tensor({0.0F, 1.0F, 1.0F, 0.0F})));
  CHECK(collected.rollout.problems[0].gold == "2");
  CHECK(collected.rollout.problems[1].gold == "4");
  CHECK(collected.sampled.prompts == 6);
  CHECK(collected.sampled.responses == 12);
  CHECK(collected.sampled.correct == 4);  // of what was dropped: the kept groups have none
  CHECK(collected.sampled.zero_std_groups == 3);
  // Nothing to learn from: ten rounds, then the last one's groups.
  rounds = {{0, 0, 1, 1}};
  at = 0;
  const Collection none = collect(sample_round, config);
  CHECK(at == 10);
  CHECK(none.sampled.rounds == 10);
  CHECK(none.kept_groups == std::vector<int64_t>{18, 19});
  CHECK(none.rollout.problems[1].gold == "19");
  // Too little: what there is.
  rounds.assign(9, {0, 0, 1, 1});
  rounds.push_back({0, 0, 0, 1});
  at = 0;
  const Collection few = collect(sample_round, config);
  CHECK(few.kept_groups == std::vector<int64_t>{19});
  CHECK(few.rollout.prompts.size() == 1);
}

TEST_CASE("loss_mask leaves truncated responses out where the settings say so [T16]") {
  const Rollout rollout = by_hand();
  CHECK(torch::equal(loss_mask(rollout, Truncated::keep), rollout.mask));
  const Tensor wanted =
      torch::tensor({{1, 1, 0}, {0, 0, 0}, {0, 0, 0}, {1, 1, 0}}).to(torch::kBool);
  CHECK(torch::equal(loss_mask(rollout, Truncated::mask), wanted));
  CHECK(torch::equal(rollout.mask, by_hand().mask));  // which is not written to [T3]
}

TEST_CASE(
    "estimate_advantages on a rollout by hand: GRPO, with the KL joined after normalising [T36]") {
  Rollout rollout = by_hand();                         // lengths 2, 1, 3, 2
  const Tensor ref_log_probs = rollout.log_probs - 2;  // k1 = 2 on every token
  Config config;
  config.algorithm = Algorithm::grpo;
  config.group_size = 2;
  config.group_epsilon = 0;
  config.group_std = GroupStd::population;
  Judgement judgement{torch::tensor({1.0F, 1.0F, 0.0F, 4.0F}), rollout.mask, {}, {}};
  const Tensor plain =
      torch::tensor({{0.F, 0.F, 0.F}, {0.F, 0.F, 0.F}, {-1.F, -1.F, -1.F}, {1.F, 1.F, 0.F}});
  CHECK(torch::equal(estimate_advantages(rollout, judgement, config).advantages, plain));
  // beta 0.1: 0.2 for each token that is still to come, in the group of equal rewards as elsewhere
  config.kl = KlPlacement::reward;
  config.kl_coef = 0.1;
  judgement.ref_log_probs = ref_log_probs;
  const Tensor penalised =
      plain - torch::tensor({{.4F, .2F, 0.F}, {.2F, 0.F, 0.F}, {.6F, .4F, .2F}, {.4F, .2F, 0.F}});
  const Advantages estimate = estimate_advantages(rollout, judgement, config);
  CHECK(torch::allclose(estimate.advantages, penalised, 1e-5, 1e-6));
  CHECK_FALSE(estimate.returns.defined());
}

TEST_CASE(
    "estimate_advantages on a rollout by hand: PPO, with the KL in the rewards [GRPO eq. 2]") {
  Rollout rollout = by_hand();
  Config config;
  config.algorithm = Algorithm::ppo;
  config.whiten = false;
  config.gamma = 0.5;
  config.lambda = 1;
  config.kl = KlPlacement::reward;
  config.kl_coef = 0.1;
  const Judgement judgement{torch::tensor({1.0F, 0.0F, 0.0F, 4.0F}), rollout.mask,
                            rollout.log_probs - 2, torch::ones({4, 3})};
  // Token rewards -0.2, and 1 - 0.2 at the end; with lambda 1 the returns are the discounted sums.
  const Tensor returns =
      torch::tensor({{.2F, .8F, 0.F}, {-.2F, 0.F, 0.F}, {-.35F, -.3F, -.2F}, {1.7F, 3.8F, 0.F}});
  Advantages estimate = estimate_advantages(rollout, judgement, config);
  CHECK(torch::allclose(estimate.returns, returns, 1e-5, 1e-6));
  CHECK(torch::allclose(estimate.advantages, (returns - 1) * rollout.mask, 1e-5, 1e-6));
  config.whiten = true;
  Judgement masked = judgement;  // the third and fourth responses are not in the loss
  masked.loss_mask = rollout.mask & torch::tensor({{1}, {1}, {0}, {0}}).to(torch::kBool);
  // -0.8, -0.2 and -1.2 have mean -0.733333 and deviation sqrt(0.506667 / 3) = 0.410961
  const Tensor whitened = torch::tensor({{-.162222F, 1.297772F, 0.F}, {-1.135550F, 0.F, 0.F}});
  CHECK(torch::allclose(estimate_advantages(rollout, masked, config).advantages.slice(0, 0, 2),
                        whitened, 1e-4, 1e-5));
  estimate = estimate_advantages(rollout, judgement, config);
  CHECK(torch::allclose(estimate.advantages, whiten((returns - 1) * rollout.mask, rollout.mask),
                        1e-4, 1e-5));
  CHECK(torch::allclose(estimate.returns, returns, 1e-5, 1e-6));
}

TEST_CASE("shaped_rewards: a response near the limit costs up to 1 [DAPO eq. 13]") {
  Config config;
  config.truncated = Truncated::soft;
  config.max_response_tokens = 3;
  config.overlong_buffer = 2;
  // Lengths 2, 1, 3 and 2 are 1, 0, 2 and 1 over 3 - 2 tokens, of 2 that cost 1.
  CHECK(torch::equal(shaped_rewards(by_hand(), config), torch::tensor({.5F, 1.F, -1.F, .5F})));
  // That the first group's rewards now differ does not make it one to learn from.
  config.prompts_per_step = 1;
  config.dynamic_sampling = true;
  const Collection collected = collect(by_hand, config);
  CHECK(collected.kept_groups == std::vector<int64_t>{1});
  CHECK(torch::equal(collected.rollout.rewards, torch::tensor({-1.F, .5F})));
}

TEST_CASE("groups are kept whose share of right responses is within the bounds [PRIME]") {
  Rollout rollout;  // 1, 2, 4 and 5 right of 5
  rollout.group_size = 5;
  rollout.grades.resize(20);
  for (const size_t right : {0, 5, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19})
    rollout.grades[right].correct = true;
  Config config;
  const auto within = [&](double min, double max) {
    config.kept_accuracy_min = min;
    config.kept_accuracy_max = max;
    return within_accuracy(rollout, {0, 1, 2, 3}, config);
  };
  using Groups = std::vector<int64_t>;
  CHECK(within(0, 1) == Groups{0, 1, 2, 3});
  CHECK(within(0.2, 0.8) == Groups{0, 1, 2});  // the bounds belong to it
  CHECK(within(0.21, 0.79) == Groups{1});
  CHECK(within_accuracy(rollout, {3, 1}, config) == Groups{1});
  // Dynamic sampling asks for both: by_hand()'s second group has rewards 0 and 1.
  config.prompts_per_step = 1;
  config.dynamic_sampling = true;
  config.kept_accuracy_min = 0.5;
  Rollout round = by_hand();
  round.grades[0].correct = round.grades[3].correct = true;
  CHECK(collect([&] { return round; }, config).kept_groups == Groups{1});
  round.grades[3].correct = false;
  CHECK(collect([&] { return round; }, config).kept_groups == Groups{18, 19});  // as it is
}

TEST_CASE(
    "reward_steps: a step falls on the token that holds its last byte, the answer on the end") {
  const auto tokenizer = Tokenizer::from_file(TEST_DATA_DIR "/tokenizer/gpt2/tokenizer.json");
  std::vector<int64_t> ids;
  for (const char* token : {"6", "*", "7", "=", "42"})
    ids.push_back(tokenizer.token_id(token).value());
  Rollout rollout = by_hand();
  rollout.lengths = {6, 2, 1, 1};
  rollout.response_ids = torch::zeros({4, 6}, torch::kInt64);
  for (int64_t t = 0; t < 5; ++t) rollout.response_ids[0][t] = ids[t];
  rollout.texts = {"6*7=42", "\u00f7", "", ""};  // the end token is no text
  // A character of two bytes, each in a token of its own.
  rollout.response_ids[1][0] = tokenizer.token_id("\u00c3").value();
  rollout.response_ids[1][1] = tokenizer.token_id("\u00b7").value();
  rollout.grades[0].steps = {{3, 0.5}, {5, 0.0}, {6, 1.0}};  // 5 is within the token "42"
  rollout.grades[1].steps = {{1, 0.25}, {2, 0.75}};
  rollout.rewards = torch::tensor({-0.5F, 1.0F, 0.0F, 1.0F});
  const Tensor wanted = torch::tensor({{0.F, 2.F, .5F},  // response, token, reward
                                       {0.F, 4.F, 0.F},
                                       {0.F, 4.F, 1.F},
                                       {0.F, 5.F, -.5F},
                                       {1.F, 0.F, .25F},
                                       {1.F, 1.F, .75F},
                                       {1.F, 1.F, 1.F},
                                       {2.F, 0.F, 0.F},
                                       {3.F, 0.F, 1.F}});
  const Tensor steps = reward_steps(rollout, tokenizer);
  CAPTURE(steps);
  CHECK(torch::equal(steps, wanted));
  for (const int64_t end : {-1, 0, 7}) {
    rollout.grades[0].steps = {{end, 1.0}};
    CHECK_THROWS_WITH_AS(
        reward_steps(rollout, tokenizer),
        doctest::Contains(
            ("response 0: a step ends at byte " + std::to_string(end) + ", want 1 to 6").c_str()),
        std::invalid_argument);
  }
}

TEST_CASE(
    "estimate_advantages on a rollout by hand: steps, with the KL still to come [GRPO 4.1.3]") {
  const Rollout rollout = by_hand();  // lengths 2, 1, 3, 2
  Config config;
  config.group_size = 2;
  config.group_epsilon = 0;
  config.group_std = GroupStd::population;
  config.supervision = Supervision::process;
  Judgement judgement{torch::tensor({1.0F, 1.0F, 0.0F, 1.0F}), rollout.mask, {}, {}};
  judgement.steps = torch::tensor(
      {{0.F, 0.F, 0.F}, {0.F, 1.F, 1.F}, {1.F, 0.F, 1.F}, {2.F, 2.F, 0.F}, {3.F, 1.F, 1.F}});
  // 0, 1, 1: mean 2/3, deviation sqrt(2)/3, normalised -1.414214, 0.707107, 0.707107
  const Tensor plain = torch::tensor(
      {{-.707107F, .707107F, 0.F}, {.707107F, 0.F, 0.F}, {-1.F, -1.F, -1.F}, {1.F, 1.F, 0.F}});
  CHECK(torch::allclose(estimate_advantages(rollout, judgement, config).advantages, plain, 1e-5,
                        1e-6));
  config.kl = KlPlacement::reward;
  config.kl_coef = 0.1;
  judgement.ref_log_probs = rollout.log_probs - 2;  // 0.2 for each token that is still to come
  const Tensor penalised =
      plain - torch::tensor({{.4F, .2F, 0.F}, {.2F, 0.F, 0.F}, {.6F, .4F, .2F}, {.4F, .2F, 0.F}});
  CHECK(torch::allclose(estimate_advantages(rollout, judgement, config).advantages, penalised, 1e-5,
                        1e-6));
}

TEST_CASE(
    "estimate_advantages on a rollout by hand: REINFORCE++ normalises over the batch's tokens") {
  const Rollout rollout = by_hand();  // lengths 2, 1, 3, 2
  Config config;
  config.algorithm = Algorithm::reinforce;
  Judgement judgement{torch::tensor({1.0F, 0.0F, 0.0F, 4.0F}), rollout.mask, {}, {}};
  // 1, 1, 0, 0, 0, 0, 4, 4: mean 1.25, deviation sqrt(34 / 8 - 1.5625) = 1.639360
  const float one = -.152499F, none = -.762493F, four = 1.677484F;
  CHECK(torch::allclose(
      estimate_advantages(rollout, judgement, config).advantages,
      torch::tensor({{one, one, 0.F}, {none, 0.F, 0.F}, {none, none, none}, {four, four, 0.F}}),
      1e-5, 1e-5));
  // The first response is not in the loss: 0, 0, 0, 0, 4, 4 have mean 4/3, deviation 1.885618.
  judgement.loss_mask = rollout.mask & torch::tensor({{0}, {1}, {1}, {1}}).to(torch::kBool);
  const float low = -.707107F, high = 1.414214F;
  CHECK(torch::allclose(
      estimate_advantages(rollout, judgement, config).advantages,
      torch::tensor({{0.F, 0.F, 0.F}, {low, 0.F, 0.F}, {low, low, low}, {high, high, 0.F}}), 1e-5,
      1e-5));
  // A penalty of 0.2 for each token to come, in its own size even where all rewards are equal [T36]
  config.kl = KlPlacement::reward;
  config.kl_coef = 0.1;
  judgement.ref_log_probs = rollout.log_probs - 2;
  judgement.rewards = torch::full({4}, 0.1F);
  CHECK(torch::allclose(
      estimate_advantages(rollout, judgement, config).advantages,
      -torch::tensor({{.4F, .2F, 0.F}, {.2F, 0.F, 0.F}, {.6F, .4F, .2F}, {.4F, .2F, 0.F}}), 1e-5,
      1e-5));
}

TEST_CASE(
    "estimate_advantages on a rollout by hand: online RFT takes the right responses [GRPO 5.2]") {
  Rollout rollout = by_hand();
  rollout.grades[0].correct = rollout.grades[2].correct = true;
  Config config;
  config.algorithm = Algorithm::rft;
  const Judgement judgement{torch::tensor({0.3F, 1.0F, -1.0F, 4.0F}), rollout.mask, {}, {}};
  CHECK(torch::equal(
      estimate_advantages(rollout, judgement, config).advantages,
      torch::tensor({{1.F, 1.F, 0.F}, {0.F, 0.F, 0.F}, {1.F, 1.F, 1.F}, {0.F, 0.F, 0.F}})));
}
