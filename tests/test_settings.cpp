#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tiny_zero/settings/config.h"

using namespace tiny_zero;

namespace {

enum class Fruit { apple, pear, plum };
constexpr auto choices(Fruit) {
  using enum Fruit;
  return std::array{Choice{apple, "apple"}, Choice{pear, "pear"}, Choice{plum, "plum"}};
}

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
  settings.write(out, sections);
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
  CHECK(refused([](Config& c) { c.top_p = 0.9; }).starts_with("top-p"));
  CHECK(refused([](Config& c) { c.temperature = 0; }).starts_with("temperature"));
  CHECK(refused([](Config& c) { c.group_size = 1; }).starts_with("group-size"));
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
}

TEST_CASE("an algorithm that has no name or no estimator is an error, not PPO [T35]") {
  Config config;
  config.algorithm = static_cast<Algorithm>(99);
  CHECK_THROWS_AS(config.has_critic(), std::logic_error);
  const Settings settings = config.settings();
  CHECK_THROWS_AS(settings.find("algorithm").get(), std::logic_error);
}
