#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tiny_zero/files/tokenizer.h"

namespace {

using nlohmann::json;
using tiny_zero::Tokenizer;
using Ids = std::vector<int64_t>;

std::filesystem::path data_file(const std::string& kind, const std::string& name) {
  return std::filesystem::path(TEST_DATA_DIR) / "tokenizer" / kind / name;
}

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file, path.string());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Letters a to d and a blank, no merges: what each test needs it adds.
json small_file() {
  return json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": false},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "Ġ": 4}, "merges": []}})");
}

json added(const std::string& content, int64_t id, bool special = false) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

Tokenizer load(const json& file) { return Tokenizer::from_json(file.dump(), "small.json"); }

/// What the std::invalid_argument says, "" if none is thrown. Any other exception fails the test.
template <class Function>
std::string complaint(Function&& function) {
  try {
    function();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

// As Llama 3's file wants it.
TEST_CASE("Tokenizer puts before a prompt what the file puts there, once") {
  json file = small_file();
  file["added_tokens"] = {added("<s>", 5, /*special=*/true)};
  const auto part = [](const char* kind, const char* id) {
    return json{{kind, {{"id", id}, {"type_id", 0}}}};
  };
  const auto single = json::array(
      {part("SpecialToken", "<s>"), part("Sequence", "A"), part("SpecialToken", "<s>")});
  const json steps =
      json::array({{{"type", "ByteLevel"}}, {{"type", "TemplateProcessing"}, {"single", single}}});
  file["post_processor"] = {{"type", "Sequence"}, {"processors", steps}};
  const auto tokenizer = load(file);
  CHECK(tokenizer.encode("ab") == Ids{0, 1});
  CHECK(tokenizer.encode_prompt("ab") == Ids{5, 0, 1});
  CHECK(tokenizer.encode_prompt("<s>ab") == Ids{5, 0, 1});
  CHECK(tokenizer.encode_prompt("") == Ids{5});
  CHECK(load(small_file()).encode_prompt("ab") == Ids{0, 1});
  file["added_tokens"] = json::array();
  CHECK(contains(complaint([&] { load(file); }),
                 "post_processor.processors[1].single[0].SpecialToken.id"));
  file["post_processor"] = {{"type", "RobertaProcessing"}};
  CHECK(
      contains(complaint([&] { load(file); }), "post_processor.type: found \"RobertaProcessing\""));
}

// The ids are stored by check_tokenizer.py --write.
TEST_CASE("Tokenizer gives the ids of the Hugging Face library") {
  for (const std::string kind : {"qwen2", "llama3", "gpt2", "smollm2"}) {
    CAPTURE(kind);
    const auto tokenizer = Tokenizer::from_file(data_file(kind, "tokenizer.json"));
    std::ifstream cases(data_file(kind, "cases.jsonl"));
    int64_t count = 0;
    for (std::string line; std::getline(cases, line); ++count) {
      CAPTURE(line);
      const json expected = json::parse(line);
      const auto text = expected["text"].get<std::string>();
      const Ids ids = tokenizer.encode(text);
      CHECK(ids == expected["ids"].get<Ids>());
      if (kind != "qwen2") CHECK(tokenizer.decode(ids) == text);  // Qwen2 composes characters
    }
    CHECK(count > 350);
  }
}

TEST_CASE("Tokenizer keeps every byte, also those that are not UTF-8") {
  std::mt19937 random(7);
  for (const std::string kind : {"llama3", "gpt2", "smollm2"}) {
    CAPTURE(kind);
    const auto tokenizer = Tokenizer::from_file(data_file(kind, "tokenizer.json"));
    for (int trial = 0; trial < 3000; ++trial) {
      std::string bytes;
      const size_t size = random() % 12;
      // Mostly lead bytes, continuations and blanks, so that characters are cut in all ways.
      while (bytes.size() < size)
        bytes += static_cast<char>(random() % 3 ? 0x80 + random() % 128 : random() % 64);
      CAPTURE(json(Ids(bytes.begin(), bytes.end())).dump());
      CHECK(tokenizer.decode(tokenizer.encode(bytes)) == bytes);
    }
  }
}

TEST_CASE("NFC composes characters and leaves broken bytes alone") {
  const auto tokenizer = Tokenizer::from_file(data_file("qwen2", "tokenizer.json"));
  CHECK(tokenizer.encode("e\u0301 a\u0302\u0323") == tokenizer.encode("\u00e9 \u1ead"));
  CHECK(tokenizer.decode(tokenizer.encode("\xff"
                                          "e\u0301\xc3(\xe4\xb8")) == "\xff\u00e9\xc3(\xe4\xb8");
  // excluded from composition
  CHECK(tokenizer.decode(tokenizer.encode("\u0958")) == "\u0915\u093c");
}

TEST_CASE("BPE merges by rank, then from the left") {
  json file = small_file();
  file["model"]["vocab"].update({{"bc", 5}, {"ab", 6}, {"aa", 7}, {"abc", 8}, {"aaaa", 9}});
  file["model"]["merges"] = {"b c", "a b", "ab c", "a a", "aa aa"};
  const auto tokenizer = load(file);
  CHECK(tokenizer.encode("abc") == Ids{0, 5});         // b c comes first, and a bc is no merge
  CHECK(tokenizer.encode("abd") == Ids{6, 3});         //
  CHECK(tokenizer.encode("aaa") == Ids{7, 0});         // the left pair
  CHECK(tokenizer.encode("aaaaaaa") == Ids{9, 7, 0});  // 7 = 4 + 2 + 1
  CHECK(tokenizer.encode("aab aab") == Ids{0, 6, 4, 0, 6});

  SUBCASE("merges may be written as pairs") {
    file["model"]["merges"] =
        json::parse(R"([["b", "c"], ["a", "b"], ["ab", "c"], ["a", "a"], ["aa", "aa"]])");
    const auto pairs = load(file);
    for (const std::string text : {"abc", "abd", "aaaaaaa", "aab aab"})
      CHECK(pairs.encode(text) == tokenizer.encode(text));
  }
  SUBCASE("ignore_merges looks for the whole word first") {
    file["model"]["ignore_merges"] = true;
    CHECK(load(file).encode("abc") == Ids{8});
    CHECK(load(file).encode("abcd") == Ids{0, 5, 3});
  }
  SUBCASE("the cache does not mix up words with one beginning") {
    const std::string word = "aabcabdaaabcdabcaaaaad";
    for (size_t size = word.size(); size > 0; --size) tokenizer.encode(word.substr(0, size));
    for (size_t size = word.size(); size > 0; --size) {
      const std::string text = word.substr(0, size);
      CHECK(tokenizer.encode(text) == load(file).encode(text));
    }
  }
}

// A quadratic merge would need hours.
TEST_CASE("A word of a megabyte takes no more than n log n") {
  json file = small_file();
  file["model"]["vocab"].update({{"aa", 5}, {"aaaa", 6}});
  file["model"]["merges"] = {"a a", "aa aa"};
  const Ids ids = load(file).encode(std::string(1 << 20, 'a'));
  CHECK(ids == Ids(1 << 18, 6));
  const auto gpt2 = Tokenizer::from_file(data_file("gpt2", "tokenizer.json"));
  const std::string blanks = "\n" + std::string(1 << 20, ' ') + "x";
  CHECK(gpt2.decode(gpt2.encode(blanks)) == blanks);
}

TEST_CASE("The cache stays right when more words come than it holds") {
  const auto tokenizer = Tokenizer::from_file(data_file("gpt2", "tokenizer.json"));
  std::string text;
  for (int number = 0; number < 150000; ++number) text += ' ' + std::to_string(number);
  const Ids ids = tokenizer.encode(text);
  CHECK(tokenizer.decode(ids) == text);
  CHECK(tokenizer.encode(text) == ids);
}

TEST_CASE("Several threads may share a tokenizer") {
  const auto tokenizer = Tokenizer::from_file(data_file("qwen2", "tokenizer.json"));
  std::vector<std::string> texts(4);
  for (size_t i = 0; i < texts.size(); ++i) {
    for (int number = 0; number < 3000; ++number)
      texts[i] += "w" + std::string(number % 7, char('a' + i)) + " the ";
  }
  std::vector<Ids> ids(texts.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < texts.size(); ++i)
    threads.emplace_back([&, i] { ids[i] = tokenizer.encode(texts[i]); });
  for (auto& thread : threads) thread.join();
  for (size_t i = 0; i < texts.size(); ++i) CHECK(tokenizer.decode(ids[i]) == texts[i]);
}

TEST_CASE("Added tokens: the leftmost, then the longest, before anything else") {
  json file = small_file();  // like the tiny model's: characters, no merges, added words
  file["added_tokens"] = {added("ab", 5), added("abcd", 6), added("<|end|>", 9, /*special=*/true),
                          added("bc", 7)};
  const auto tokenizer = load(file);
  CHECK(tokenizer.encode("abcd") == Ids{6});
  CHECK(tokenizer.encode("abcabcd") == Ids{5, 2, 6});  // not a, bc: "ab" starts further left
  CHECK(tokenizer.encode("dbca b") == Ids{3, 7, 0, 4, 1});
  CHECK(tokenizer.encode("<|end|>a<|end|>") == Ids{9, 0, 9});
  CHECK(tokenizer.encode("").empty());

  CHECK(tokenizer.decode(Ids{5, 4, 9, 0}) == "ab <|end|>a");
  CHECK(tokenizer.decode(Ids{5, 4, 9, 0}, /*skip_special=*/true) == "ab a");
  CHECK(tokenizer.vocab_size() == 10);  // id 8 is a gap
  CHECK(tokenizer.token_id("<|end|>") == 9);
  CHECK(tokenizer.token_id("Ġ") == 4);
  CHECK_FALSE(tokenizer.token_id(" ").has_value());
  for (const int64_t id : {-1, 8, 10}) {
    CHECK(contains(complaint([&] {
                     tokenizer.decode(Ids{0, id});
                   }),
                   "no token has id " + std::to_string(id)));
  }
}

TEST_CASE("A normalized added token is sought in the normalised text, after the others") {
  json file = small_file();
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"] = {added("e\u0301", 5), added("e\u0301a", 6), added("ab", 7)};
  CHECK(load(file).encode("e\u0301ab") == Ids{6, 1});
  file["added_tokens"][1]["normalized"] = true;
  CHECK(load(file).encode("\u00e9a") == Ids{6});  // e + accent in the file, composed in the text
  CHECK(load(file).encode("e\u0301a") == Ids{5, 0});  // id 5 is not normalized and so comes first
}

TEST_CASE("Split cuts at the matches of any regular expression") {
  json file = small_file();  // the merges show where a text was not cut
  file["model"]["vocab"].update({{"aa", 5}, {"aaa", 6}, {"bc", 7}, {"ab", 8}});
  file["model"]["merges"] = {"a a", "aa a", "b c", "a b"};
  const auto split_by = [&](const char* pattern) {
    json with_split = file;
    with_split["pre_tokenizer"] = {{"type", "Sequence"},
                                   {"pretokenizers",
                                    {{{"type", "Split"},
                                      {"pattern", {{"Regex", pattern}}},
                                      {"behavior", "Isolated"},
                                      {"invert", false}},
                                     file["pre_tokenizer"]}}};
    return load(with_split);
  };
  CHECK(load(file).encode("abcab") == Ids{0, 7, 8});
  CHECK(split_by("b").encode("abcab") == Ids{0, 1, 2, 0, 1});            // a, b, c, a, b
  CHECK(split_by("bc|a").encode("aabcb") == Ids{0, 0, 7, 1});            // a, a, bc, b
  CHECK(split_by("(?<=a)b").encode("bcabc") == Ids{7, 0, 1, 2});         // bca, b, c
  CHECK(split_by("(?=(aaa)+(?!a))").encode("aaaaaaa") == Ids{0, 6, 6});  // in groups of three
  // More than the just-in-time compiler's stack holds.
  CHECK(split_by("(?:aa?)+b").encode(std::string(1 << 16, 'a') + "b").size() == (1 << 15) + 1);

  const std::string message =
      complaint([&] { split_by("(a+)+$").encode(std::string(40, 'a') + "c"); });
  CAPTURE(message);
  CHECK(contains(message, "small.json: pre_tokenizer.pretokenizers[0].pattern.Regex: "));
  CHECK(contains(message, "match limit"));
}

TEST_CASE("A byte that is not UTF-8 counts as punctuation") {
  json file = small_file();
  file["pre_tokenizer"]["use_regex"] = true;
  file["model"]["vocab"].update({{"\u00ff", 5}, {".", 6}, {"a\u00ff", 7}, {"\u00ff.", 8}});
  file["model"]["merges"] = {"a \u00ff", "\u00ff ."};
  CHECK(load(file).encode("a\xff.") == Ids{0, 8});  // cut behind the a only
}

TEST_CASE("A character without a token is an error that names it, or unk_token") {
  json file = small_file();
  const std::string message = complaint([&] { load(file).encode("ab \u00e9"); });
  CAPTURE(message);
  CHECK(contains(message, "small.json"));
  CHECK(contains(message, "\u00e9\""));
  CHECK(contains(complaint([&] { load(file).encode("\n"); }), "byte 10"));
  file["model"]["unk_token"] = "d";
  CHECK(load(file).encode("a\u00e9") == Ids{0, 3, 3});  // one for each byte
}

TEST_CASE("What is not supported is refused by name") {
  struct Change {
    const char* place;  // JSON pointer
    json value;
    const char* message;
  };
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "\\s+"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const auto sequence = [](const json& steps) {
    return json{{"type", "Sequence"}, {"pretokenizers", steps}};
  };
  const Change changes[] = {
      {"/version", "2.0", "small.json: version: found \"2.0\", want \"1.0\""},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer.type: found \"NFKC\""},
      {"/normalizer", "NFC", "normalizer: found \"NFC\", want an object"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer: found null"},
      {"/pre_tokenizer/type", "Metaspace", "pre_tokenizer.type: found \"Metaspace\""},
      {"/pre_tokenizer/add_prefix_space", true, "pre_tokenizer.add_prefix_space: found true"},
      {"/pre_tokenizer/use_regex", "no", "pre_tokenizer.use_regex: found \"no\""},
      {"/pre_tokenizer", sequence(json::array()), "pre_tokenizer.pretokenizers: found an array"},
      {"/pre_tokenizer", sequence({{{"type", "Digits"}}}),
       "pretokenizers[0].type: found \"Digits\""},
      {"/pre_tokenizer", sequence({byte_level, byte_level}),
       "pretokenizers[0].type: found \"ByteLevel\""},
      {"/pre_tokenizer", sequence({sequence({byte_level}), byte_level}),
       "pretokenizers[0].type: found \"Sequence\""},
      {"/model/type", "WordPiece", "model.type: found \"WordPiece\""},
      {"/model/byte_fallback", true, "model.byte_fallback: found true"},
      {"/model/dropout", 0.1, "model.dropout: found 0.1"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix: found \"##\""},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix: found \"</w>\""},
      {"/model/vocab", {"a", "b"}, "model.vocab: found an array"},
      {"/model/vocab/b", 0, "model.vocab.b: found 0, want an id of its own; \"a\" has this one"},
      {"/model/vocab/b", -1, "model.vocab.b: found -1"},
      {"/model/vocab/b", 1.5, "model.vocab.b: found 1.5"},
      {"/model/vocab/b", 18446744073709551615u, "model.vocab.b: found 18446744073709551615"},
      {"/model/merges", nullptr, "model.merges: found null"},
      {"/model/merges", {"ab"}, "model.merges[0]: found \"ab\""},
      {"/model/merges", {"a b c"}, "model.merges[0]: found \"a b c\""},
      {"/model/merges", {"a b"}, "lacks \"ab\""},
      {"/model/merges", json::parse(R"([["a", "b", "c"]])"), "model.merges[0]: found an array"},
      {"/model/merges", json::parse(R"([["a", 1]])"), "model.merges[0][1]: found 1"},
      {"/added_tokens", {added("x", 2)}, "added_tokens[0].id: found 2"},
      {"/added_tokens", {added("a", 9)}, "added_tokens[0].id: found 9, want 0"},
      {"/added_tokens", {added("", 9)}, "added_tokens[0].content: found \"\""},
      {"/added_tokens", {{{"id", 9}}}, "added_tokens[0].content: found null"},
      {"/decoder", nullptr, "decoder: found null"},
      {"/decoder/type", "Metaspace", "decoder.type: found \"Metaspace\""},
  };
  for (const auto& [place, value, message] : changes) {
    json file = small_file();
    file[json::json_pointer(place)] = value;
    const std::string found = complaint([&] { load(file); });
    CAPTURE(place);
    CAPTURE(found);
    CHECK(contains(found, message));
  }
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    json file = small_file();
    file["added_tokens"] = {added("x", 9)};
    file["added_tokens"][0][flag] = true;
    CHECK(contains(complaint([&] { load(file); }),
                   std::string("added_tokens[0].") + flag + ": found true"));
  }
  const std::pair<const char*, json> refused[] = {{"behavior", "Removed"},
                                                  {"invert", true},
                                                  {"pattern", {{"String", "a"}}},
                                                  {"pattern", {{"Regex", "(a"}}},
                                                  {"pattern", {{"Regex", "a{2,1}"}}},
                                                  {"pattern", {{"Regex", "[a-z&&[^b]]"}}},
                                                  {"pattern", {{"Regex", "\\C"}}}};
  for (const auto& [key, value] : refused) {
    json file = small_file();
    json step = split;
    step[key] = value;
    file["pre_tokenizer"] = sequence({step, byte_level});
    CAPTURE(value);
    CHECK(contains(complaint([&] { load(file); }), std::string("pretokenizers[0].") + key));
  }
}

TEST_CASE("A broken file is an error with its name, never a crash") {
  CHECK(contains(complaint([] { Tokenizer::from_file("/no/such/tokenizer.json"); }),
                 "/no/such/tokenizer.json"));
  CHECK(contains(complaint([] { Tokenizer::from_file(TEST_DATA_DIR); }), TEST_DATA_DIR));
  const std::string good = read_all(data_file("smollm2", "tokenizer.json"));
  for (size_t size = 0; size + 1 < good.size(); size += 499) {
    CHECK(contains(complaint([&] { Tokenizer::from_json(good.substr(0, size), "cut.json"); }),
                   "cut.json: not JSON"));
  }
  CHECK(contains(complaint([] { Tokenizer::from_json("\xff{}", "x"); }), "x: not JSON"));
  for (const std::string& end : {std::string(), std::string(200000, ']')}) {
    CHECK(complaint([&] { Tokenizer::from_json(std::string(200000, '[') + end, "x"); }) ==
          "x: not JSON: nested too deep");
  }
  CHECK(contains(complaint([] { Tokenizer::from_json("[]", "x"); }), "x: "));

  // Any value anywhere may be of any type: each file loads or is refused, and nothing else happens.
  json file = small_file();
  file["model"]["vocab"]["ab"] = 5;
  file["model"]["merges"] = {"a b"};
  file["added_tokens"] = {added("<|end|>", 6, /*special=*/true)};
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Digits"}, {"individual_digits", true}}, file["pre_tokenizer"]}}};
  REQUIRE(load(file).encode("ab") == Ids{5});
  const json values = {
      nullptr,        true,          -1,    3, 1e300, 1u << 31, "", "x y", json::array(),
      json::object(), {{"type", 1}}, {1, 2}};
  int refused = 0;
  const json places = file.flatten();
  for (const auto& [place, old] : places.items()) {
    for (const json& value : values) {
      for (auto at = json::json_pointer(place); !at.empty(); at = at.parent_pointer()) {
        json changed = file;
        changed[at] = value;
        refused += complaint([&] { load(changed); }) != "";
      }
    }
  }
  CHECK(refused > 200);
}
