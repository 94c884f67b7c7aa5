#include "tiny_zero/files/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <queue>
#include <sstream>
#include <stdexcept>

#include "tiny_zero/files/json.h"

namespace tiny_zero {

struct Tokenizer::WordCache {
  static constexpr size_t kMaxWords = 1 << 16, kMaxWordBytes = 256;  // at most tens of MB
  std::mutex mutex;
  TextMap<std::vector<int64_t>> ids;
};

namespace {

using nlohmann::json;

// ---- Characters ---------------------------------------------------------------------------------

struct Char {
  size_t bytes;
  int32_t code;  // -1 for a byte that is not part of a UTF-8 character
};

Char char_at(std::string_view text, size_t position) {
  if (position >= text.size()) return {0, -1};
  const auto* begin = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position;
  if (*begin < 128) return {1, *begin};
  utf8proc_int32_t code;
  const auto bytes = utf8proc_iterate(begin, text.size() - position, &code);
  if (bytes <= 0) return {1, -1};
  return {static_cast<size_t>(bytes), code};
}

/// Canonical composition (NFC); bytes that are not UTF-8 are kept.
std::string to_nfc(std::string_view text) {
  // Nothing composes across two neighbouring ASCII characters, so most of a text can skip utf8proc.
  const auto is_ascii = [&](size_t i) { return i == text.size() || uint8_t(text[i]) < 128; };
  const auto ascii_pair = [&](size_t i) { return is_ascii(i) && is_ascii(i + 1); };
  std::string result;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    if (ascii_pair(begin)) {
      result += text[end++];
      continue;
    }
    Char next = char_at(text, end);
    while (next.code >= 0 && !ascii_pair(end)) next = char_at(text, end += next.bytes);
    utf8proc_uint8_t* composed = nullptr;
    const auto bytes =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + begin, end - begin,
                     &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (bytes < 0) throw std::bad_alloc();  // the only way to fail, as [begin, end) is UTF-8
    result.append(reinterpret_cast<const char*>(composed), bytes);
    std::free(composed);
    if (end < text.size() && next.code < 0) result += text[end++];
  }
  return result;
}

/// GPT-2 spells each byte as one printable character, so that a vocabulary is readable text:
/// printable bytes as themselves, the others as U+0100, U+0101, ... in order.
const std::array<int32_t, 256>& byte_spelling() {
  static const auto codes = [] {
    std::array<int32_t, 256> result;
    int32_t next = 0x100;
    for (int32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      result[byte] = printable ? byte : next++;
    }
    return result;
  }();
  return codes;
}

/// Inverse of spell_token(). A token with any other character, as some special tokens have, is
/// returned as it is.
std::string unspell(const std::string& token) {
  static const auto bytes_by_code = [] {
    std::unordered_map<int32_t, char> result;
    for (int byte = 0; byte < 256; ++byte) result[byte_spelling()[byte]] = static_cast<char>(byte);
    return result;
  }();
  std::string result;
  for (size_t position = 0; position < token.size();) {
    const Char next = char_at(token, position);
    const auto byte = bytes_by_code.find(next.code);
    if (byte == bytes_by_code.end()) return token;
    result += byte->second;
    position += next.bytes;
  }
  return result;
}

// ---- Pre-tokenisation ---------------------------------------------------------------------------

constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What PCRE2 gets to see of a text: valid UTF-8 with the same offsets.
/// - A byte that is not UTF-8 becomes U+0001, which is no letter, number or space.
/// - U+180E becomes U+200B. PCRE2's \s matches it, though Unicode no longer calls it a space.
std::string as_subject(std::string_view text) {
  std::string subject(text);
  for (size_t position = 0; position < text.size();) {
    const Char next = char_at(text, position);
    if (next.code < 0) subject[position] = '\x01';
    if (next.code == 0x180E) subject.replace(position, next.bytes, "\u200B");
    position += next.bytes;
  }
  return subject;
}

// ---- Reading the file ---------------------------------------------------------------------------

// Keeps a broken file from asking for a table of gigabytes.
constexpr int64_t kMaxId = (1 << 20) - 1;

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | uint32_t(right);
}

}  // namespace

std::string spell_token(std::string_view bytes) {
  std::string result;
  for (const char byte : bytes) {
    utf8proc_uint8_t buffer[4];
    const auto size = utf8proc_encode_char(byte_spelling()[static_cast<uint8_t>(byte)], buffer);
    result.append(reinterpret_cast<const char*>(buffer), size);
  }
  return result;
}

/// A regular expression that cuts a text: each match is a piece, and so is what lies between two.
class Tokenizer::Splitter {
 public:
  /// @param field  where the pattern stands in the file, for errors
  Splitter(const std::string& pattern, const Field& field) : path_(field.path) {
    int error = 0;
    size_t offset = 0;
    // Oniguruma, which defines the patterns, lets ^ and $ match at each line.
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &error, &offset, nullptr),
                pcre2_code_free);
    if (!code_)
      field.fail("a regular expression; byte " + std::to_string(offset) + ": " + message(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without it matching is only slower
    match_.reset(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
    context_.reset(pcre2_match_context_create(nullptr), pcre2_match_context_free);
    if (!match_ || !context_) throw std::bad_alloc();
    pcre2_set_match_limit(context_.get(), kMatchLimit);
  }

  /// Calls `act` with begin and end of each piece of a subject that as_subject() made.
  template <class Action>
  void cut(std::string_view subject, const Action& act) const {
    const size_t* const found = pcre2_get_ovector_pointer(match_.get());
    size_t begin = 0;          // of the next piece
    size_t from = 0;           // where the search goes on
    bool after_match = false;  // whether `from` is the end of a match
    while (from <= subject.size() && search(subject, from)) {
      // \K may move the ends of a match; never backwards here.
      const size_t first = std::max(found[0], from), last = std::max(found[1], first);
      // Like Oniguruma, no empty match right after a match, but one character further on.
      if (first == last && first == from && after_match) {
        from += std::max<size_t>(1, char_at(subject, from).bytes);
        after_match = false;
        continue;
      }
      if (begin < first) act(begin, first);
      if (first < last) act(first, last);
      begin = from = last;
      after_match = true;
    }
    if (begin < subject.size()) act(begin, subject.size());
  }

 private:
  static constexpr uint32_t kMatchLimit = 10'000'000;  // stops patterns such as (a+)+$ in a second

  /// Finds a match at `from` or later, skipping the check for UTF-8 that as_subject() makes
  /// needless.
  bool search(std::string_view subject, size_t from) const {
    const auto run = [&](const auto& match, uint32_t options) {
      return match(code_.get(), reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), from,
                   PCRE2_NO_UTF_CHECK | options, match_.get(), context_.get());
    };
    int result = run(pcre2_jit_match, 0);  // on a small stack; the interpreter uses the heap
    if (result == PCRE2_ERROR_JIT_STACKLIMIT || result == PCRE2_ERROR_JIT_BADOPTION)
      result = run(pcre2_match, PCRE2_NO_JIT);
    if (result < 0 && result != PCRE2_ERROR_NOMATCH)
      throw std::invalid_argument(path_ + ": failed on a text of " +
                                  std::to_string(subject.size()) + " bytes: " + message(result));
    return result >= 0;
  }

  static std::string message(int error) {
    char text[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
    return text;
  }

  std::string path_;
  std::shared_ptr<pcre2_code> code_;
  std::shared_ptr<pcre2_match_data> match_;  // encode() holds a lock while it is in use
  std::shared_ptr<pcre2_match_context> context_;
};

/// Fills a Tokenizer from the parts of the file.
class TokenizerReader {
 public:
  explicit TokenizerReader(Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void read(const Field& root) {
    root["version"].may_be("1.0");
    tokenizer_.nfc_ = !root["normalizer"].value.is_null();
    if (tokenizer_.nfc_) root["normalizer"]["type"].must_be("NFC");
    read_pre_tokenizer(root["pre_tokenizer"]);
    read_model(root["model"]);
    if (const Field added = root["added_tokens"]; !added.value.is_null()) read_added_tokens(added);
    if (const Field processor = root["post_processor"]; !processor.value.is_null())
      read_post_processor(processor);
    root["decoder"]["type"].must_be("ByteLevel");
  }

 private:
  /// The steps of a "Sequence"; any other field is a single step.
  static std::vector<Field> steps_of(const Field& field, const std::string& name) {
    return field["type"].value == "Sequence" ? field[name].elements() : std::vector{field};
  }

  void read_pre_tokenizer(const Field& field) {
    const auto steps = steps_of(field, "pretokenizers");
    for (size_t i = 0; i < steps.size(); ++i)
      read_splitter(steps[i], /*last=*/i + 1 == steps.size());
    if (steps.empty()) field["pretokenizers"].fail("a last element of type \"ByteLevel\"");
  }

  void read_splitter(const Field& field, bool last) {
    const Field type = field["type"];
    if (last != (type.text() == "ByteLevel"))
      type.fail("\"ByteLevel\" as the last step and only there");
    if (last) {
      field["add_prefix_space"].may_be(false);
      if (const Field regex = field["use_regex"]; regex.flag(true))
        add_splitter(kGpt2Pattern, regex);
    } else if (type.text() == "Digits") {
      const Field individual = field["individual_digits"];
      add_splitter(individual.flag(false) ? R"(\p{N})" : R"(\p{N}+)", individual);
    } else if (type.text() == "Split") {
      const Field regex = field["pattern"]["Regex"];
      field["behavior"].must_be("Isolated");
      field["invert"].may_be(false);
      for (const char* part : {"&&", "\\h", "\\H"})
        if (regex.text().find(part) != std::string::npos)
          regex.fail(std::string("a pattern without ") + part +
                     ", which PCRE2 and Oniguruma understand differently");
      add_splitter(regex.text(), regex);
    } else {
      type.fail("\"Split\", \"Digits\" or \"ByteLevel\"");
    }
  }

  void add_splitter(const std::string& pattern, const Field& field) {
    tokenizer_.splitters_.push_back(std::make_shared<const Tokenizer::Splitter>(pattern, field));
  }

  void read_model(const Field& field) {
    field["type"].may_be("BPE");  // files of 2020 leave it out
    field["byte_fallback"].may_be(false);
    field["dropout"].may_be(0);
    field["continuing_subword_prefix"].may_be("");
    field["end_of_word_suffix"].may_be("");
    tokenizer_.ignore_merges_ = field["ignore_merges"].flag(false);

    for (const auto& [token, id] : field["vocab"].members())
      tokenizer_.vocab_.emplace(token, add_token(id, unspell(token)));
    std::optional<int32_t> unknown;
    if (const Field unk = field["unk_token"]; !unk.value.is_null()) {
      field["fuse_unk"].may_be(false);
      if (const auto id = tokenizer_.token_id(unk.text())) unknown = static_cast<int32_t>(*id);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const auto id = tokenizer_.token_id(spell_token(std::string(1, static_cast<char>(byte))));
      tokenizer_.byte_ids_[byte] = id ? static_cast<int32_t>(*id) : unknown;
    }
    const auto merges = field["merges"].elements();
    for (size_t rank = 0; rank < merges.size(); ++rank)
      read_merge(merges[rank], static_cast<int32_t>(rank));
  }

  void read_merge(const Field& field, int32_t rank) {
    std::vector<std::string> parts;
    if (field.value.is_string()) {
      std::istringstream words(field.text());
      for (std::string word; std::getline(words, word, ' ');) parts.push_back(word);
    } else {
      for (const Field& part : field.elements()) parts.push_back(part.text());
    }
    if (parts.size() != 2) field.fail("\"a b\" or [\"a\", \"b\"]");
    const auto id_of = [&](const std::string& token) {
      const auto id = tokenizer_.token_id(token);
      if (!id) field.fail("a merge of tokens in model.vocab, which lacks \"" + token + "\"");
      return static_cast<int32_t>(*id);
    };
    const uint64_t key = pair_key(id_of(parts[0]), id_of(parts[1]));
    tokenizer_.merges_.insert_or_assign(key, Tokenizer::Merge{rank, id_of(parts[0] + parts[1])});
  }

  void read_added_tokens(const Field& field) {
    for (const Field& entry : field.elements()) {
      for (const char* key : {"lstrip", "rstrip", "single_word"}) entry[key].may_be(false);
      const std::string& content = entry["content"].text();
      if (content.empty()) entry["content"].fail("at least one character");
      const Field id_field = entry["id"];
      if (const auto known = tokenizer_.token_id(content); known && id_field.value != *known)
        id_field.fail(std::to_string(*known) + ", which \"" + content + "\" has already");
      const int64_t id = add_token(id_field, content);
      const bool special = entry["special"].flag(false),
                 normalized = entry["normalized"].flag(!special);
      tokenizer_.tokens_[id].special = special;
      tokenizer_.added_ids_.emplace(content, id);
      const std::string spelling = normalized && tokenizer_.nfc_ ? to_nfc(content) : content;
      tokenizer_.added_[normalized][static_cast<uint8_t>(spelling[0])].push_back({spelling, id});
    }
    const auto length = [](const Tokenizer::AddedToken& token) { return token.text.size(); };
    for (auto& added : tokenizer_.added_)
      for (auto& same_first_byte : added)
        std::ranges::stable_sort(same_first_byte, std::greater(), length);
  }

  void read_post_processor(const Field& field) {
    for (const Field& step : steps_of(field, "processors")) {
      const Field type = step["type"];
      if (type.value == "ByteLevel") continue;  // moves offsets only
      if (type.value != "TemplateProcessing")
        type.fail("\"ByteLevel\" or \"TemplateProcessing\", alone or in a \"Sequence\"");
      for (const Field& part : step["single"].elements()) {
        if (part["SpecialToken"].value.is_null()) break;  // the text
        const Field name = part["SpecialToken"]["id"];
        const auto id = tokenizer_.token_id(name.text());
        if (!id) name.fail("a token of this file");
        tokenizer_.before_prompt_.push_back(*id);
      }
    }
  }

  int64_t add_token(const Field& id_field, const std::string& bytes) {
    const int64_t id = id_field.integer(0, kMaxId);
    if (id >= std::ssize(tokenizer_.tokens_)) tokenizer_.tokens_.resize(id + 1);
    Tokenizer::Token& token = tokenizer_.tokens_[id];
    if (token.exists && token.bytes != bytes)
      id_field.fail("an id of its own; \"" + token.bytes + "\" has this one");
    token.bytes = bytes;
    token.exists = true;
    return id;
  }

  Tokenizer& tokenizer_;
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  return from_json(
      read_text(path, "a model directory wants the tokenizer's file beside its weights"),
      path.string());
}

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view name_for_errors) {
  Tokenizer tokenizer;
  tokenizer.name_ = name_for_errors;
  tokenizer.cache_ = std::make_shared<WordCache>();
  const auto root = parse_json<json>(text, tokenizer.name_ + ": ");
  TokenizerReader(tokenizer).read({root, tokenizer.name_ + ": "});
  return tokenizer;
}

std::optional<int64_t> Tokenizer::token_id(std::string_view token) const {
  for (const auto* ids : {&added_ids_, &vocab_})
    if (const auto found = ids->find(token); found != ids->end()) return found->second;
  return std::nullopt;
}

std::string Tokenizer::decode(std::span<const int64_t> ids, bool skip_special) const {
  std::string result;
  for (const int64_t id : ids) {
    if (id < 0 || id >= std::ssize(tokens_) || !tokens_[id].exists)
      throw std::invalid_argument(name_ + ": no token has id " + std::to_string(id) +
                                  ", the largest is " + std::to_string(std::ssize(tokens_) - 1) +
                                  "; was a padded row of the embedding sampled?");
    if (!skip_special || !tokens_[id].special) result += tokens_[id].bytes;
  }
  return result;
}

std::vector<int64_t> Tokenizer::encode(std::string_view utf8) const {
  const std::lock_guard lock(cache_->mutex);
  std::vector<int64_t> ids;
  cut_out(added_[/*normalized=*/0], utf8, ids, [&](std::string_view raw) {
    const std::string composed = nfc_ ? to_nfc(raw) : std::string();
    cut_out(added_[/*normalized=*/1], nfc_ ? composed : raw, ids,
            [&](std::string_view piece) { split(piece, as_subject(piece), /*step=*/0, ids); });
  });
  return ids;
}

std::vector<int64_t> Tokenizer::encode_prompt(std::string_view utf8) const {
  std::vector<int64_t> ids = encode(utf8);
  const bool there = std::ranges::equal(
      before_prompt_, std::span(ids).first(std::min(ids.size(), before_prompt_.size())));
  if (!there) ids.insert(ids.begin(), before_prompt_.begin(), before_prompt_.end());
  return ids;
}

/// Appends the ids of the added tokens in `text`, the longest where several begin, and calls `rest`
/// with what lies between them.
void Tokenizer::cut_out(const AddedTokens& added, std::string_view text, std::vector<int64_t>& ids,
                        const PieceAction& rest) const {
  size_t begin = 0, position = 0;
  while (position < text.size()) {
    const auto& candidates = added[static_cast<uint8_t>(text[position])];
    const auto match = std::find_if(
        candidates.begin(), candidates.end(),
        [&](const AddedToken& token) { return text.substr(position).starts_with(token.text); });
    if (match == candidates.end()) {
      ++position;
      continue;
    }
    if (begin < position) rest(text.substr(begin, position - begin));
    ids.push_back(match->id);
    begin = position += match->text.size();
  }
  if (begin < text.size()) rest(text.substr(begin));
}

/// Cuts `text` with splitter number `step`, its pieces with the next one, and turns what remains
/// into ids.   @param subject  as_subject(text)
void Tokenizer::split(std::string_view text, std::string_view subject, size_t step,
                      std::vector<int64_t>& ids) const {
  if (step == splitters_.size()) return encode_word(text, ids);
  splitters_[step]->cut(subject, [&](size_t begin, size_t end) {
    split(text.substr(begin, end - begin), subject.substr(begin, end - begin), step + 1, ids);
  });
}

void Tokenizer::encode_word(std::string_view word, std::vector<int64_t>& ids) const {
  if (const auto hit = cache_->ids.find(word); hit != cache_->ids.end()) {
    ids.insert(ids.end(), hit->second.begin(), hit->second.end());
    return;
  }
  const auto whole = ignore_merges_ ? vocab_.find(spell_token(word)) : vocab_.end();
  std::vector<int64_t> word_ids = whole != vocab_.end() ? std::vector{whole->second} : merge(word);
  ids.insert(ids.end(), word_ids.begin(), word_ids.end());
  if (word.size() > WordCache::kMaxWordBytes) return;
  // Common words come back at once.
  if (cache_->ids.size() >= WordCache::kMaxWords) cache_->ids.clear();
  cache_->ids.emplace(word, std::move(word_ids));
}

/// BPE: as long as two neighbours can merge, merge the pair of lowest rank, from the left. A heap
/// of candidates and a linked list of symbols make this O(n log n) for n bytes.
std::vector<int64_t> Tokenizer::merge(std::string_view word) const {
  struct Symbol {
    int32_t id;  // -1 once it is part of its left neighbour
    size_t previous, next;
  };
  struct Candidate {
    Merge merge;
    int32_t left_id, right_id;
    size_t left;
    bool operator<(const Candidate& other) const {  // std::priority_queue pops the largest
      return merge.rank != other.merge.rank ? merge.rank > other.merge.rank : left > other.left;
    }
  };
  const size_t size = word.size();
  std::vector<Symbol> symbols(size);
  for (size_t i = 0; i < size; ++i) {
    const auto id = byte_ids_[static_cast<uint8_t>(word[i])];
    if (!id)
      throw std::invalid_argument(name_ + ": the vocabulary has no token for byte " +
                                  std::to_string(static_cast<uint8_t>(word[i])) + " of \"" +
                                  std::string(word.substr(0, 60)) + "\" and the file no unk_token");
    symbols[i] = {*id, i - 1, i + 1};  // the first `previous` wraps around and is never followed
  }

  std::priority_queue<Candidate> candidates;
  const auto consider = [&](size_t left) {
    const size_t right = symbols[left].next;
    if (right >= size) return;
    const int32_t left_id = symbols[left].id, right_id = symbols[right].id;
    const auto merge = merges_.find(pair_key(left_id, right_id));
    if (merge != merges_.end()) candidates.push({merge->second, left_id, right_id, left});
  };
  for (size_t i = 0; i < size; ++i) consider(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[best.left];
    // Another merge may have taken one of the two in the meantime. Symbols only grow, so an old id
    // never returns and comparing ids suffices.
    if (left.id != best.left_id || left.next >= size || symbols[left.next].id != best.right_id)
      continue;
    symbols[left.next].id = -1;
    left.id = best.merge.merged_id;
    left.next = symbols[left.next].next;
    if (left.next < size) symbols[left.next].previous = best.left;
    consider(best.left);
    if (best.left > 0) consider(left.previous);
  }

  std::vector<int64_t> ids;
  for (size_t i = 0; i < size; i = symbols[i].next) ids.push_back(symbols[i].id);
  return ids;
}

}  // namespace tiny_zero
