// Byte-level BPE tokenizer that reads the Hugging Face file `tokenizer.json` (Qwen2, Llama 3,
// GPT-2, SmolLM2 and alike).
//
// Departures from the library `tokenizers`, all on purpose:
//   - encode() adds no special tokens, encode_prompt() only those that post_processor puts before a
//     text; truncation and padding are not applied;
//   - a byte without a token is an error if there is no unk_token, where the library drops it
//     silently;
//   - decode() prints an added token as it is spelt, and throws on an id without a token (a padded
//     row of the embedding);
//   - added_tokens have the ids that the file gives them, even if that leaves gaps;
//   - PCRE2 runs the patterns, not Oniguruma. PCRE2 10.42 knows the letters of Unicode 14.0, so
//     some 9,400 rare letters of later versions are split differently; its \w has no combining
//     marks.
// A file that asks for anything not listed at from_json() is refused.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tiny_zero {

/// Lets maps keyed by std::string be searched with a std::string_view.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

class Tokenizer {
 public:
  /// Reads a tokenizer.json.
  /// @throws std::invalid_argument if the file cannot be read, or as from_json() does
  static Tokenizer from_file(const std::filesystem::path& path);

  /// Understands
  /// - normalizer: null, NFC
  /// - pre_tokenizer: ByteLevel, or a Sequence of Split (Regex, Isolated) and Digits that ends with
  ///   ByteLevel
  /// - model: BPE with vocab, merges ("a b" or ["a", "b"]), ignore_merges, unk_token
  /// - added_tokens: special or not, normalized or not; without lstrip, rstrip, single_word
  /// - decoder: ByteLevel
  /// - post_processor: null, ByteLevel, TemplateProcessing (only the tokens before the text), or a
  ///   Sequence of these
  ///
  /// @param name_for_errors  what messages call the text, usually its path
  /// @throws std::invalid_argument for anything else, with the field, what was found and what is
  /// supported
  static Tokenizer from_json(std::string_view text, std::string_view name_for_errors);

  /// Text to ids. Added tokens in the text become their ids, so do not trust a prompt that holds
  /// other people's text. Takes any bytes: those that are not UTF-8 are treated as punctuation.
  /// decode(encode(x)) == x, after NFC if the file wants NFC. Threads may share a tokenizer; they
  /// take turns.
  /// @throws std::invalid_argument if a byte has no token and the file no unk_token, or if a Split
  /// pattern exceeds the match limit
  std::vector<int64_t> encode(std::string_view utf8) const;

  /// encode(), after the tokens that the file puts before a text, such as Llama 3's
  /// <|begin_of_text|>, unless they are there already.
  std::vector<int64_t> encode_prompt(std::string_view utf8) const;

  /// Ids to bytes; a truncated response may end within a UTF-8 character. encode(decode(ids)) may
  /// differ from ids.
  /// @throws std::invalid_argument for an id without a token
  std::string decode(std::span<const int64_t> ids, bool skip_special = false) const;

  /// Largest id + 1. A model's embedding is often padded to more rows, which must never be sampled.
  size_t vocab_size() const { return tokens_.size(); }

  /// Id of a token as the file spells it: "<|im_end|>", but "Ġthe" for " the".
  std::optional<int64_t> token_id(std::string_view token) const;

 private:
  struct Token {
    std::string bytes;
    bool exists = false, special = false;
  };
  struct Merge {
    int32_t rank, merged_id;
  };
  struct AddedToken {
    std::string text;
    int64_t id;
  };
  struct WordCache;
  class Splitter;
  using AddedTokens = std::array<std::vector<AddedToken>, 256>;  // by first byte, the longest first
  using PieceAction = std::function<void(std::string_view)>;

  friend class TokenizerReader;
  Tokenizer() = default;
  void cut_out(const AddedTokens& added, std::string_view text, std::vector<int64_t>& ids,
               const PieceAction& rest) const;
  void split(std::string_view text, std::string_view subject, size_t step,
             std::vector<int64_t>& ids) const;
  void encode_word(std::string_view word, std::vector<int64_t>& ids) const;
  std::vector<int64_t> merge(std::string_view word) const;

  std::string name_;
  std::vector<Token> tokens_;           // by id
  TextMap<int64_t> vocab_, added_ids_;  // by the file's spelling
  std::array<std::optional<int32_t>, 256> byte_ids_;
  std::unordered_map<uint64_t, Merge> merges_;  // by pair_key(left id, right id)
  std::array<AddedTokens, 2> added_;            // found before [0] and after [1] normalisation
  std::vector<int64_t> before_prompt_;
  std::vector<std::shared_ptr<const Splitter>> splitters_;  // each cuts the pieces of the last
  bool nfc_ = false, ignore_merges_ = false;
  std::shared_ptr<WordCache> cache_;  // copies of a tokenizer share it
};

/// These bytes as a vocabulary spells a token: " the" is "Ġthe".
std::string spell_token(std::string_view bytes);

}  // namespace tiny_zero
