#pragma once
// The tokenizer of a tiny base model.

#include <span>
#include <string>
#include <string_view>

namespace tiny_zero {

/// tokenizer.json of a tiny model, without merges: one token for each of these bytes and one for
/// each of these words, the last of which ends a text.
std::string byte_tokenizer_json(std::string_view bytes, std::span<const std::string_view> words);

}  // namespace tiny_zero
