#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tiny_zero/settings/config.h"

using namespace tiny_zero;

namespace {

enum class Fruit { apple, pear, plum };
constexpr auto choices(Fruit) { return std::array{"apple", "pear", "plum"}; }

struct Basket {
  int64_t count = 3;
  double kl_coef = 0.001;
  bool ripe = false;
  std::string label = "mine";
  Fruit fruit = Fruit::apple;

  Settings settings() {
    Settings list;
    list.section("numbers")
        .add("count", count, 1, 8, "")
        .add("kl-coef", kl_coef, 0.0, Settings::kAny, "");
    list.section("words").add("ripe", ripe, "").add("label", label, "");
    list.add("fruit", fruit, "");
    return list;
  }
};

/// What the call throws as std::invalid_argument, "nothing was thrown" if it does not.
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

struct TemporaryFile {
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("tiny_zero_settings_" + std::to_string(getpid()) + ".conf");
  explicit TemporaryFile(const std::string& text) { std::ofstream(path) << text; }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

std::string written(const Settings& settings, const std::vector<std::string>& sections = {}) {
  std::ostringstream out;
  settings.write(out, [&](const Setting& one) { return sections.empty() || one.in(sections); });
  return out.str();
}

}  // namespace

TEST_CASE("settings: parse stores the value and get gives it back") {
  Basket basket;
  const Settings settings = basket.settings();
  settings.find("count").parse("8");
  settings.find("kl-coef").parse("2.5e-4");
  settings.find("ripe").parse("true");
  settings.find("label").parse("two words");
  settings.find("fruit").parse("plum");
  CHECK(basket.count == 8);
  CHECK(basket.kl_coef == 0.00025);
  CHECK(basket.ripe);
  CHECK(basket.label == "two words");
  CHECK(basket.fruit == Fruit::plum);
  CHECK(settings.find("fruit").get() == "plum");
  basket.kl_coef = 0.1 + 0.2;  // 0.30000000000000004: six digits would not bring it back
  settings.find("kl-coef").parse(settings.find("kl-coef").get());
  CHECK(basket.kl_coef == 0.1 + 0.2);
}

TEST_CASE(
    "settings: a bad value changes nothing and the message holds name, value and what is allowed") {
  Basket basket;
  const Settings settings = basket.settings();
  const auto refused = [&](const std::string& name, const std::string& text) {
    return message_of([&] { settings.find(name).parse(text); });
  };
  CHECK(refused("count", "9") == "count is \"9\", want a whole number, at least 1, at most 8");
  CHECK(refused("kl-coef", "-0.5") == "kl-coef is \"-0.5\", want a number, at least 0");
  CHECK(refused("ripe", "yes") == "ripe is \"yes\", want true or false");
  CHECK(refused("fruit", "Pear") == "fruit is \"Pear\", want one of apple, pear, plum");
  for (const char* text : {"0", "2.5", "3x", "", " 3", "99999999999999999999"}) {
    CAPTURE(text);
    CHECK(refused("count", text).find("want a whole number") != std::string::npos);
  }
  for (const char* text : {"nan", "1,5", "0.1 ", ""}) {
    CAPTURE(text);
    CHECK(refused("kl-coef", text).find("want a number") != std::string::npos);
  }
  CHECK(basket.count == 3);
  CHECK(basket.kl_coef == 0.001);
}

TEST_CASE("settings: an unknown name is answered with the nearest one") {
  Basket basket;
  const Settings settings = basket.settings();
  for (const auto& [typed, meant] :
       {std::pair{"kl-coeff", "kl-coef"}, {"cuont", "count"}, {"fruits", "fruit"}}) {
    const std::string message = message_of([&, name = typed] { settings.find(name); });
    CHECK(message.find(std::string(typed) + "\"; the nearest is \"" + meant + "\"") !=
          std::string::npos);
  }
  // Nothing is near these: a suggestion would mislead.
  for (const char* name : {"temprature-of-x", "q", "ab", "json"}) {
    const std::string message = message_of([&] { settings.find(name); });
    CAPTURE(message);
    CHECK(message.find("the nearest") == std::string::npos);
    CHECK(message.find("--help") != std::string::npos);
  }
}

TEST_CASE("settings: a name from a paper or another trainer is answered by what it means") {
  Config config;
  const Settings settings = config.settings();
  const std::vector<std::pair<std::string, std::string>> meanings{
      {"beta", "kl-coef"},
      {"init_kl_coef", "kl-coef"},
      {"epsilon", "clip-low and clip-high"},
      {"eps", "clip-low and clip-high"},
      {"clip", "clip-low and clip-high"},
      {"lr", "learning-rate"},
      {"G", "group-size"},
      {"n", "group-size"},
      {"num_generations", "group-size"},
      {"batch-size", "prompts-per-step and group-size"},
      {"kl_coef", "\"kl-coef\""},
      {"max_response_tokens", "\"max-response-tokens\""}};
  for (const auto& [typed, meant] : meanings) {
    const std::string message = message_of([&, name = typed] { settings.find(name); });
    CAPTURE(message);
    CHECK(message.starts_with("there is no setting \"" + typed + "\"; "));
    CHECK(message.find(meant) != std::string::npos);
    for (const char* harmful : {"beta1", "json", "\"kl\"", "ffn"})
      CHECK(message.find(harmful) == std::string::npos);
  }
}

TEST_CASE("settings: what a setting needs is looked up in the others") {
  Basket basket;
  Settings settings = basket.settings();
  settings
      .needs("fruit != plum", {"words"})  // a section
      .needs("count > 3 or ripe = true", {"kl-coef"})
      .needs("label = nothing", {"count"});
  const auto unmet = [&](const std::string& name) { return settings.unmet(settings.find(name)); };
  CHECK(unmet("ripe") == "");
  CHECK(unmet("kl-coef") == "count > 3 or ripe = true");
  CHECK(unmet("count") == "label = nothing");
  basket.fruit = Fruit::plum;
  basket.count = 4;
  basket.label = "";
  CHECK(unmet("ripe") == "fruit != plum");
  CHECK(unmet("label") == "fruit != plum");
  CHECK(unmet("kl-coef") == "");
  CHECK(unmet("count") == "");
  basket.count = 3;
  basket.ripe = true;
  CHECK(unmet("kl-coef") == "");
  settings.needs("colour = red");  // all of them
  CHECK_THROWS(settings.unmet(settings.find("count")));
}

TEST_CASE("settings: each has an effect where the code reads it, and needs what the code asks") {
  Config config;
  const Settings settings = config.settings();
  const auto unmet = [&](const std::string& name) { return settings.unmet(settings.find(name)); };
  // The table follows the predicates that the loop itself asks, for each algorithm.
  for (size_t a = 0; a < choices(Algorithm{}).size(); ++a) {
    config.algorithm = static_cast<Algorithm>(a);
    for (const char* name : {"gamma", "lambda", "critic", "critic-head"})
      CHECK(unmet(name).empty() == config.has_critic());
    for (const char* name :
         {"supervision", "group-std", "group-epsilon", "baseline"})  // PRIME has its own
      CHECK(unmet(name).empty() == (config.compares_groups() && !config.has_prm()));
    for (const char* name : {"prime-beta", "prime-score"})
      CHECK(unmet(name).empty() == config.has_prm());
    CHECK(unmet("whiten").empty() == (config.has_critic() || config.has_prm()));
    for (size_t network = 0; network < choices(CriticNetwork{}).size(); ++network) {
      config.critic = static_cast<CriticNetwork>(network);
      for (const char* name :
           {"critic-learning-rate", "critic-mini-batches", "critic-warmup-steps"})
        CHECK(unmet(name).empty() == config.has_own_critic());
      CHECK(unmet("value-coef").empty() == config.has_shared_critic());
    }
  }
  for (size_t kl = 0; kl < choices(KlPlacement{}).size(); ++kl) {
    config.kl = static_cast<KlPlacement>(kl);
    CHECK(unmet("kl-coef").empty() == config.has_reference());
    CHECK(unmet("reference-every").empty() == config.has_reference());
  }
  config = Config();
  CHECK(unmet("clip-low") == "mini-batches > 1 or epochs > 1");
  config.epochs = 2;
  CHECK(unmet("clip-high") == "");
  config.epochs = 1;
  config.mini_batches = 2;
  CHECK(unmet("clip-low") == "");
  config.algorithm = Algorithm::ppo;  // the own critic is updated once, its values are the old ones
  CHECK(unmet("value-clip") == "critic-mini-batches > 1 or epochs > 1 or critic = shared");
  config.critic = CriticNetwork::shared;
  CHECK(unmet("value-clip") == "");
  config.mini_batches = 1;
  CHECK(!unmet("value-clip").empty());
  for (const auto& [name, change, back] :
       {std::tuple<std::string, std::string, std::string>{"truncation-penalty",
                                                          "truncated = penalise", "keep"},
        {"overlong-buffer", "truncated = soft", "mask"},
        {"kept-accuracy-min", "dynamic-sampling = true", "false"},
        {"kept-accuracy-max", "dynamic-sampling = true", "false"},
        {"final-learning-rate", "schedule = cosine", "constant"},
        {"top-p", "temperature = 1", "0"},
        {"problem", "prompt = ", "use 1, 2"},
        {"chat", "problem = -1", "3"}}) {
    CAPTURE(name);
    const std::string decides = change.substr(0, change.find(' '));
    settings.find(decides).parse(back);
    CHECK(unmet(name).starts_with(decides));
    settings.find(decides).parse(change.substr(change.find("= ") + 2));
    CHECK(unmet(name) == "");
  }
  config.algorithm = Algorithm::grpo;
  config.group_std = GroupStd::none;
  CHECK(unmet("group-epsilon") == "group-std != none");
  CHECK(unmet("policy-loss") == "mini-batches > 1 or epochs > 1");
  config.mini_batches = 2;
  for (const auto loss : {PolicyLoss::clip, PolicyLoss::gspo, PolicyLoss::cispo}) {
    config.policy_loss = loss;
    CHECK(unmet("policy-loss") == "");
    CHECK(unmet("clip-high") == "");
    CHECK(unmet("clip-low").empty() == (loss != PolicyLoss::cispo));
  }
}

TEST_CASE("settings: a recipe is lines of name = value with comments and blanks") {
  Basket basket;
  const TemporaryFile file(
      "# a recipe\n\n  count = 5   # five\nlabel=a = b\r\nfruit\t=\tpear\ncount = 6");
  basket.settings().read_recipe(file.path);
  CHECK(basket.count == 6);  // the later line wins, and the last one needs no line feed
  CHECK(basket.label == "a = b");
  CHECK(basket.fruit == Fruit::pear);
  CHECK(basket.kl_coef == 0.001);
}

TEST_CASE("settings: a recipe tells what it set, and only some of it may be read") {
  Basket basket;
  const TemporaryFile file("count = 5\nlabel = x\nripe = true\n");
  CHECK(basket.settings().read_recipe(file.path, {"numbers", "ripe"}) ==
        std::set<std::string>{"count", "ripe"});
  CHECK(basket.count == 5);
  CHECK(basket.ripe);
  CHECK(basket.label == "mine");
}

TEST_CASE("settings: an error in a recipe names file and line") {
  for (const auto& [bad, reason] : {std::pair{"count = 9", "count is \"9\""},
                                    {"colour = red", "there is no setting \"colour\""},
                                    {"count 5", "want `name = value"}}) {
    Basket basket;
    const TemporaryFile file("# first\ncount = 2\n" + std::string(bad) + "\n");
    const std::string message = message_of([&] { basket.settings().read_recipe(file.path); });
    CAPTURE(message);
    CHECK(message.starts_with(file.path.string() + ":3: "));
    CHECK(message.find(reason) != std::string::npos);
  }
  CHECK(message_of([] {
          Basket().settings().read_recipe("/no/such.conf");
        }).find("/no/such.conf") != std::string::npos);
}

TEST_CASE("settings: write chooses sections, and what it writes reads back to the same") {
  Basket basket;
  CHECK(written(basket.settings(), {"numbers"}) == "# numbers\ncount = 3\nkl-coef = 0.001\n");
  Config config;
  config.kl_coef = 1.0 / 3.0;
  config.seed = int64_t{1} << 62;
  config.kl = KlPlacement::loss_k2;
  config.resume = true;
  config.prompt = "";
  const std::string text = written(config.settings());
  const TemporaryFile file(text);
  Config read;
  read.settings().read_recipe(file.path);
  CHECK(written(read.settings()) == text);
  CHECK(read.kl_coef == 1.0 / 3.0);
  CHECK(read.seed == int64_t{1} << 62);
  CHECK(read.kl == KlPlacement::loss_k2);
}

TEST_CASE("settings: append keeps the order and the sections") {
  Basket basket;
  int64_t extra = 1;
  Settings all = basket.settings(), more;
  more.section("more").add("extra", extra, 0, 9, "");
  all.append(more);
  CHECK(std::distance(all.begin(), all.end()) == 6);
  CHECK(written(all, {"words", "more"}) ==
        "# words\nripe = false\nlabel = mine\nfruit = apple\n# more\nextra = 1\n");
}

TEST_CASE("training refuses what it cannot learn from, naming the setting [T9]") {
  const auto refused = [](auto change) {
    Config config;
    config.model = "somewhere";
    config.validate_training();  // as it is, nothing is wrong
    change(config);
    return message_of([&] { config.validate_training(); });
  };
  Config config;
  CHECK_THROWS(config.settings().find("truncation-penalty").parse("0.5"));  // it would be a reward
  CHECK(refused([](Config& c) { c.top_p = 0.9; }).starts_with("top-p"));
  CHECK(refused([](Config& c) { c.temperature = 0; }).starts_with("temperature"));
  CHECK(refused([](Config& c) { c.group_size = 1; }).starts_with("group-size"));
  CHECK(refused([](Config& c) {
          c.algorithm = Algorithm::prime;
          c.group_size = 1;
        }).starts_with("group-size"));
  CHECK(refused([](Config& c) {
          c.algorithm = Algorithm::ppo;
          c.group_size = 1;
          c.dynamic_sampling = true;
        }).starts_with("dynamic-sampling"));
  CHECK(refused([](Config& c) {
          c.critic = CriticNetwork::shared;
          c.critic_warmup_steps = 3;
        }).starts_with("critic-warmup-steps"));
  CHECK(refused([](Config& c) { c.model = ""; }).starts_with("model"));
  CHECK(refused([](Config& c) {
          c.supervision = Supervision::process;
          c.baseline = Baseline::leave_one_out;
        }).starts_with("supervision is process, want baseline = mean"));
  CHECK(refused([](Config& c) {
          c.supervision = Supervision::process;
          c.dynamic_sampling = true;  // looks at the whole rewards alone
        }).starts_with("supervision is process"));
  CHECK(refused([](Config& c) {
          c.truncated = Truncated::soft;
          c.overlong_buffer = c.max_response_tokens + 1;
        }).starts_with("overlong-buffer"));
  CHECK(refused([](Config& c) {
          c.kept_accuracy_min = 0.6;
          c.kept_accuracy_max = 0.5;
        }).starts_with("kept-accuracy-min"));
  for (const auto change : {+[](Config& c) { c.kl = KlPlacement::reward; },
                            +[](Config& c) { c.truncated = Truncated::soft; },
                            +[](Config& c) { c.truncated = Truncated::penalise; }}) {
    CHECK(refused([&](Config& c) {
            c.algorithm = Algorithm::rft;
            change(c);
          }).starts_with("algorithm rft reads no rewards"));
  }
  Config alone;  // no group is needed
  alone.model = "somewhere";
  alone.algorithm = Algorithm::reinforce;
  alone.group_size = 1;
  alone.validate_training();
}

TEST_CASE("an algorithm that has no name or no estimator is an error, not PPO [T35]") {
  Config config;
  config.algorithm = static_cast<Algorithm>(99);
  CHECK_THROWS_AS(config.has_critic(), std::logic_error);
  const Settings settings = config.settings();
  CHECK_THROWS_AS(settings.find("algorithm").get(), std::logic_error);
}
