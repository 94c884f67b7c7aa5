// The status line, the bar below it, and the watch that notices hopeless runs.

#include <doctest/doctest.h>

#include "tiny_zero/settings/progress.h"
#include "tiny_zero/watch.h"

using namespace tiny_zero;

namespace {

/// A step in which nothing is wrong.
Json step_of(int64_t step) {
  return {{"step", step},
          {"reward_mean", 0.612},
          {"accuracy", 0.5951},
          {"response_tokens_mean", 171.3},
          {"truncated_rate", 0.136},
          {"reflection_rate", 0.887},
          {"zero_std_groups", 3},
          {"prompts_sampled", 32},
          {"kl", nullptr},
          {"entropy", 0.42},
          {"clip_fraction", 0.0},
          {"explained_variance", nullptr},
          {"step_s", 6.71}};
}

Json with(Json metrics, const Json& changes) {
  metrics.update(changes);
  return metrics;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// What a watch says of steps 0 to `steps` - 1, each with these changes.
std::string news_of(Watch& watch, int64_t steps, const Json& changes) {
  std::string all;
  for (int64_t step = 0; step < steps; ++step)
    all += watch.look(with(step_of(step), changes)) + "\n";
  return all;
}

}  // namespace

TEST_CASE("the status line shows accuracy, reward and tokens, and what else there is and fits") {
  CHECK(status_line(step_of(12)) ==
        "step 12 6.7s accuracy 0.595 reward 0.61 tokens 171 truncated 0.14 entropy 0.42");
  // PPO with a KL and several updates: all three must be there.
  CHECK(status_line(with(step_of(149), {{"kl", 0.0012},
                                        {"clip_fraction", 0.021},
                                        {"explained_variance", 0.934},
                                        {"reward_mean", -0.5},
                                        {"response_tokens_mean", 1024.2},
                                        {"step_s", 95.4}})) ==
        "step 149 95s accuracy 0.595 reward -0.50 tokens 1024 kl 0.001 clip 0.02 ev 0.93");
  const Json skipped{{"entropy", nullptr}, {"clip_fraction", nullptr}, {"skipped", "kl"}};
  CHECK(status_line(with(step_of(3), skipped)).ends_with("tokens 171 truncated 0.14"));
}

TEST_CASE("the status line keeps to 80 columns with extreme values") {
  const Json extreme{{"step", 123456},
                     {"reward_mean", -1234.5},
                     {"accuracy", 1.0},
                     {"response_tokens_mean", 32768.0},
                     {"truncated_rate", 1.0},
                     {"kl", 123456.789},
                     {"entropy", 11.93},
                     {"clip_fraction", 1.0},
                     {"explained_variance", -98765.4},
                     {"step_s", 86400.0}};
  const std::string line = status_line(with(step_of(0), extreme));
  CAPTURE(line);
  CHECK(line.size() <= 80);
  for (const std::string part :
       {"step 123456", "accuracy 1.000", "reward -1234.50", "tokens 32768"})
    CHECK(contains(line, part));
  const std::string endless = status_line(with(step_of(0), {{"kl", 1e300}}));
  CHECK(endless.size() <= 80);
  CHECK(!contains(endless, "kl"));  // or a number cut in the middle
  CHECK(contains(endless, "entropy 0.42"));
}

TEST_CASE("the bar shows parts, time left and phase, and stays below 80 columns") {
  CHECK(bar_line(12, 40, 200.4, "sampling 96/512") ==
        "[######..............] 12/40  3:20 left  sampling 96/512");
  CHECK(bar_line(0, 40, -1, "") == "[....................] 0/40");
  CHECK(bar_line(40, 40, 0, "") == "[####################] 40/40  0:00 left");
  CHECK(contains(bar_line(1, 40, 3600 + 9 * 60 + 5, ""), "  1:09:05 left"));
  CHECK(bar_line(0, 0, -1, "").starts_with("[####################] 0/0"));
  CHECK(bar_line(5'000'000'000, 5'000'000'000, 1e6, "sampling 1048576/1048576").size() < 80);
}

TEST_CASE("the watch ends a run after ten skipped updates in a row, counted across a resumption") {
  const Json skipped{{"skipped", "policy_loss"}};
  Watch first{/*compares_groups=*/true};
  news_of(first, 1, Json::object());
  CHECK(first.wants_dump());
  const std::string news = first.look(with(step_of(1), skipped));
  CHECK(contains(news, "step 1"));
  CHECK(contains(news, "policy_loss was not finite"));
  CHECK(first.look(step_of(2)) == "");  // one good update, and the count starts again
  for (int64_t step = 3; step < 8; ++step) {
    CHECK(first.wants_dump() == (step < 5));  // steps 1, 3 and 4
    first.look(with(step_of(step), skipped));
  }
  Watch second{true};
  second.counts = Json::parse(Json(first.counts).dump());  // as a checkpoint keeps it
  CHECK(!second.wants_dump());
  for (int64_t step = 8; step < 13; ++step) {
    CHECK(second.verdict == "");
    second.look(with(step_of(step), skipped));
  }
  CAPTURE(second.verdict);
  for (const std::string part : {"policy_loss", "from step 3 on", "not_finite_step_1.safetensors",
                                 "learning-rate", "--resume"})
    CHECK(contains(second.verdict, part));
  Watch third{true};
  third.counts = second.counts;
  news_of(third, 9, skipped);  // who resumes it gets ten steps again
  CHECK(third.verdict == "");
}

TEST_CASE("the watch warns once of groups that are all equal, if groups are compared") {
  const Json equal{{"zero_std_groups", 32}};
  Watch watch{/*compares_groups=*/true};
  CHECK(news_of(watch, 9, equal).find_first_not_of('\n') == std::string::npos);
  CHECK(watch.look(step_of(9)) == "");
  CHECK(news_of(watch, 9, equal).find_first_not_of('\n') == std::string::npos);
  CHECK(contains(watch.look(with(step_of(9), equal)), "a larger group-size"));
  watch.look(step_of(10));
  CHECK(news_of(watch, 30, equal).find_first_not_of('\n') == std::string::npos);
  CHECK(watch.verdict == "");
  Watch critic{/*compares_groups=*/false};
  CHECK(news_of(critic, 30, equal).find_first_not_of('\n') == std::string::npos);
}

TEST_CASE("the watch warns once of responses that are all truncated and of a collapse") {
  for (const auto& [changes, part] :
       {std::pair{Json{{"truncated_rate", 1.0}}, "max-response-tokens"},
        {Json{{"entropy", 0.0001}, {"accuracy", 0.2}}, "collapsed"}}) {
    Watch watch{false};
    CHECK(news_of(watch, 9, changes).find_first_not_of('\n') == std::string::npos);
    CHECK(contains(watch.look(with(step_of(9), changes)), part));
    CHECK(news_of(watch, 30, changes).find_first_not_of('\n') == std::string::npos);
  }
  Watch falling{false};  // from 3 nats to less than a twentieth
  CHECK(falling.look(with(step_of(0), {{"entropy", 3.0}, {"accuracy", 0.2}})) == "");
  CHECK(contains(news_of(falling, 10, {{"entropy", 0.14}, {"accuracy", 0.0}}), "collapsed"));
  Watch watch{false};
  // A policy that is certain and right has learnt its task.
  CHECK(news_of(watch, 30, {{"entropy", 0.0001}, {"accuracy", 0.98}}).find_first_not_of('\n') ==
        std::string::npos);
  CHECK(news_of(watch, 30, {{"truncated_rate", 0.99}}).find_first_not_of('\n') ==
        std::string::npos);
}
