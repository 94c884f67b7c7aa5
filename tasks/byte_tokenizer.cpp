#include "tasks/byte_tokenizer.h"

#include <nlohmann/json.hpp>

#include "tiny_zero/files/tokenizer.h"

namespace tiny_zero {

using nlohmann::json;

std::string byte_tokenizer_json(std::string_view bytes, std::span<const std::string_view> words) {
  auto tokenizer = json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": false},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": false},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "merges": []}})");
  auto& vocab = tokenizer["model"]["vocab"];
  for (const char& byte : bytes) vocab[spell_token({&byte, 1})] = vocab.size();
  auto word = json::parse(
      R"({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})");
  for (const std::string_view content : words) {
    word["id"] = vocab.size() + tokenizer["added_tokens"].size();
    word["content"] = content;
    word["special"] = content == words.back();
    tokenizer["added_tokens"].push_back(word);
  }
  return tokenizer.dump(/*indent=*/1);
}

}  // namespace tiny_zero
