// Feeds mutated files to the parsers of other people's files, under the address and
// undefined-behaviour sanitizers: safetensors headers, tokenizer.json, and whatever is read as JSON
// or JSON Lines, with the rows of MATH:
//   make fuzz SECONDS=600
// A file may be read, or refused with the documented exception; anything else ends the program with
// the file's bytes in fuzz_failure. Files that were read become new starting points.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <random>
#include <sstream>
#include <stdexcept>

#include "tasks/math/math.h"
#include "tiny_zero/files/json.h"
#include "tiny_zero/files/safetensors_header.h"
#include "tiny_zero/files/tokenizer.h"

namespace {

using namespace tiny_zero;
std::mt19937_64 random_bits;
size_t below(size_t n) { return n == 0 ? 0 : random_bits() % n; }

const std::vector<std::string> kWords{"\"dtype\"",
                                      "\"F32\"",
                                      "\"shape\"",
                                      "\"data_offsets\"",
                                      "\"__metadata__\"",
                                      "[0,8]",
                                      "[]",
                                      "{}",
                                      "null",
                                      "true",
                                      "-1",
                                      "0",
                                      "1e300",
                                      "18446744073709551615",
                                      "9223372036854775808",
                                      "4294967296",
                                      "0.5",
                                      "\"\"",
                                      "\"a b\"",
                                      "\"\\u0000\"",
                                      "\"ByteLevel\"",
                                      "\"Sequence\"",
                                      "\"Split\"",
                                      "\"Digits\"",
                                      "\"NFC\"",
                                      "\"merges\"",
                                      "\"vocab\"",
                                      "\"id\"",
                                      "\"unk_token\"",
                                      "\"normalized\"",
                                      "\"ignore_merges\"",
                                      "\"use_regex\"",
                                      ",",
                                      ":",
                                      "[",
                                      "]",
                                      "{",
                                      "}",
                                      "\"",
                                      "\\",
                                      "\xff",
                                      "\u00e9",
                                      "\u0120",
                                      "\"Regex\"",
                                      "\\\\p{L}+",
                                      "(?=",
                                      "(a|",
                                      ")*",
                                      "{2,9}",
                                      "|",
                                      "[^",
                                      "\\\\K",
                                      "(?R)"};

std::string mutated(std::string bytes, const std::vector<std::string>& seeds) {
  for (size_t changes = 1 + below(4); changes > 0; --changes) {
    const size_t at = below(bytes.size() + 1),
                 length = below(std::min<size_t>(bytes.size() - at, 64) + 1);
    const std::string& word = kWords[below(kWords.size())];
    switch (below(10)) {
      case 0:
        bytes.insert(at, word);
        break;
      case 1:
        bytes.replace(at, length, word);
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(below(bytes.size() + 1), bytes.substr(at, length));
        break;
      case 4:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random_bits());
        break;
      case 5:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 6: {  // a number becomes another one
        const size_t digit = bytes.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const size_t end = std::min(bytes.find_first_not_of("0123456789", digit), bytes.size());
        bytes.replace(digit, end - digit,
                      below(2) ? kWords[10 + below(7)] : std::to_string(below(300)));
        break;
      }
      case 7:
        if (below(8) == 0) bytes.resize(at);
        break;
      case 9:  // deep nesting
        if (below(50) == 0) bytes.insert(at, std::string(below(200'000), "[{"[below(2)]));
        break;
      case 8: {  // a piece of another file
        const std::string& other = seeds[below(seeds.size())];
        bytes.replace(at, length, other.substr(below(other.size() + 1), below(200)));
      }
    }
  }
  return bytes;
}

/// The header's length as its first eight bytes, right more often than not.
std::string with_length(const std::string& header, size_t data_bytes) {
  uint64_t length = below(8)   ? header.size()
                    : below(3) ? below(2 * header.size() + 1)
                               : random_bits();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header +
         std::string(data_bytes, '\0');
}

void check(bool good, const char* what) {
  if (!good) throw std::logic_error(what);
}

/// True if the file was read.
bool try_safetensors(const std::string& file) {
  try {
    size_t bytes = 0;
    for (const auto& tensor : read_safetensors_header({file.data(), file.size()}, "fuzz")) {
      size_t size = safetensors_element_bytes(tensor.dtype);
      for (const int64_t extent : tensor.shape) size *= static_cast<size_t>(extent);
      check(tensor.begin <= tensor.end && tensor.end <= file.size(), "range");
      check(tensor.end - tensor.begin == size, "size");
      bytes += size;
    }
    check(bytes <= file.size(), "overlap");
    return true;
  } catch (const std::runtime_error&) {
    return false;
  }
}

bool try_tokenizer(const std::string& file) {
  const auto accepts = [](const auto& run) {
    try {
      run();
    } catch (const std::invalid_argument&) {
      return false;
    }
    return true;
  };
  std::optional<Tokenizer> tokenizer;
  if (!accepts([&] { tokenizer = Tokenizer::from_json(file, "fuzz"); })) return false;
  std::string text = "use 3,8 once. I'll e\u0301 \u4e2d\u6587 \xff\n\n <|end|>the the 12345";
  for (size_t i = below(6); i > 0; --i)
    text.insert(below(text.size()), 1, static_cast<char>(random_bits()));
  accepts([&] {
    const auto ids = tokenizer->encode(text);
    for (const int64_t id : ids)
      check(id >= 0 && id < static_cast<int64_t>(tokenizer->vocab_size()), "id");
    tokenizer->decode(ids);
  });
  return true;
}

/// Whether a text can be shown: UTF-8 without control characters but newline and tab.
void check_visible(const std::string& text) {
  for (const char c : text) check((c & 0xE0) != 0 || c == '\n' || c == '\t', "control character");
  nlohmann::json(text).dump();  // throws for what is not UTF-8
}

/// Reads a field in each way; what does not fit is refused in words that can be shown.
void read_field(const Field& field) {
  const std::function<void()> ways[] = {
      [&] { check(field.text() == field.value, "text"); },
      [&] { check(field.integer(-5, INT64_MAX) == field.value, "integer"); },
      [&] { check(field.number() == field.value, "number"); },
      [&] { check(field.flag(false) == (field.value == true), "flag"); },
      [&] { field.must_be("ByteLevel"); },
      [&] {
        for (const Field& element : field.elements()) read_field(element);
      },
      [&] {
        for (const auto& [key, member] : field.members()) read_field(member);
      }};
  for (const auto& way : ways) {
    try {
      way();
    } catch (const std::invalid_argument& error) {
      check_visible(error.what());
    }
  }
}

bool try_json(const std::string& file) {
  check_visible(visible(file));
  std::istringstream in(file);
  std::string line;
  bool read = false;
  for (int64_t number = 0; next_row(in, line, number, "fuzz");) {
    try {
      const auto value = parse_json<nlohmann::json>(line, "fuzz: ");
      const Json ordered = parse_json<Json>(line, "fuzz: ");
      check(nlohmann::json(ordered) == value, "the two kinds of object differ");
      check(nlohmann::json::parse(value.dump()) == value, "what is written is read as another");
      read_field({value, "fuzz: "});
      read = true;
    } catch (const std::invalid_argument& error) {
      check_visible(error.what());
    }
    try {
      math::read_row(line, "fuzz:1");
    } catch (const std::invalid_argument& error) {
      check_visible(error.what());
    }
  }
  return read;
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: fuzz safetensors|tokenizer|json SECONDS SEED-FILE...\n";
    return 2;
  }
  const std::string target = argv[1];
  const bool safetensors = target == "safetensors";
  const auto& read_file = safetensors             ? try_safetensors
                          : target == "tokenizer" ? try_tokenizer
                                                  : try_json;
  std::vector<std::string> seeds;
  for (int i = 3; i < argc; ++i) {
    std::string file = read_all(argv[i]);
    uint64_t length = 0;
    if (safetensors) std::memcpy(&length, file.data(), sizeof length);
    if (safetensors) file = file.substr(sizeof length, length);
    if (target == "json") file.resize(std::min<size_t>(file.size(), 1 << 13));  // a few rows
    seeds.push_back(file);
  }
  // Small files, so that every part is hit often.
  for (int i = 0; i < argc; ++i) {
    if (target == "json") {
      seeds.push_back(R"({"problem":"a","answer":"\\boxed{1}","level":"Level 3","ids":[1,2.5e3]}
{"question":"\u001b\u0000\ud83d\ude00","answer":"so #### 7","x":{"y":[[[[{}]]],true,null]}})");
      continue;
    }
    seeds.push_back(safetensors ? R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"
                                : R"({"version":"1.0",
      "added_tokens":[{"id":6,"content":"<|end|>","lstrip":false,"normalized":true,"special":true}],
      "normalizer":{"type":"NFC"}, "decoder":{"type":"ByteLevel"},
      "pre_tokenizer":{"type":"Sequence","pretokenizers":[
        {"type":"Split","pattern":{"Regex":"(?:\\s?[a-z]+)+|(?<=1)2"},"behavior":"Isolated",
         "invert":false},
        {"type":"Digits","individual_digits":true},
        {"type":"ByteLevel","add_prefix_space":false,"use_regex":true}]},
      "model":{"type":"BPE","dropout":null,"unk_token":"u","ignore_merges":true,
        "vocab":{"t":0,"h":1,"th":2,"e":3,"the":4,"u":5},"merges":["t h",["th","e"]]}})");
  }
  const size_t given = seeds.size();
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(std::atol(argv[2]));
  int64_t files = 0, read = 0;
  for (; std::chrono::steady_clock::now() < stop; ++files) {
    const std::string header = mutated(seeds[below(seeds.size())], seeds);
    const size_t data_bytes = below(4) ? 8 : below(64);
    const std::string file = safetensors ? with_length(header, data_bytes) : header;
    try {
      if (!read_file(file)) continue;
    } catch (const std::exception& error) {
      std::ofstream("fuzz_failure", std::ios::binary) << file;
      std::cerr << "fuzz: after " << files << " files, " << error.what()
                << "; the bytes are in fuzz_failure\n";
      return 1;
    }
    ++read;
    if (seeds.size() < given + 500)
      seeds.push_back(header);
    else
      seeds[given + below(500)] = header;
  }
  std::cout << argv[1] << ": " << files << " files, " << read << " read, the rest refused\n";
}
