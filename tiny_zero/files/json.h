#pragma once
// Whole files, JSON Lines, fields of a JSON file. Whatever other people wrote is opened by
// open_text() and parsed by parse_json().

#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tiny_zero {

using Json = nlohmann::ordered_json;

/// Writes a whole file; throws std::runtime_error with the path if that fails.
void write_text(const std::filesystem::path& path, const std::string& text);

/// Text for a terminal or a message: control characters but newline and tab become \x1b and the
/// like, bytes that are not UTF-8 become U+FFFD.
std::string visible(std::string_view text);

/// Opens a text file, or a pipe such as /dev/stdin. A directory, a device and a gzip file are
/// refused, as they would read as empty or as nonsense.
/// @throws std::invalid_argument with the path and `wanted_for`, which says what needs it
std::ifstream open_text(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads a whole file; throws as open_text() does.
std::string read_text(const std::filesystem::path& path, const std::string& wanted_for);

/// Parses JSON. The library copies, writes and frees values by recursion, so their nesting is
/// bounded.
/// @param AnyJson  Json, or nlohmann::json, which finds the keys of large objects faster
/// @param place  in front of the message: "config.json: "
/// @throws std::invalid_argument with the place and where the mistake is
template <class AnyJson>
AnyJson parse_json(std::string_view text, const std::string& place);
constexpr int kMaxJsonDepth = 100;

/// Reads a file that holds one JSON object; throws std::invalid_argument with the path and where
/// the mistake is.
Json read_json(const std::filesystem::path& path, const std::string& wanted_for);

/// Reads the next line of JSON Lines that is not blank; false at the end. `number` counts every
/// line: start it at 0, and it tells errors which line this is.
/// @param name  of the file, in front of messages
/// @throws std::invalid_argument for a line of more than kMaxLineBytes, after which the next call
/// goes on, and for a file that cannot be read
bool next_row(std::istream& in, std::string& line, int64_t& number, const std::string& name = "");
constexpr size_t kMaxLineBytes = 16 << 20;  // four Bibles; a line takes up to 50 times its memory

/// A JSON value with its path, so that each error says where, what was found and what was wanted.
/// All functions throw std::invalid_argument if the value is not what they want.
struct Field {
  const nlohmann::json& value;
  std::string path;  // "tokenizer.json: model.merges[3]"; of a whole file "tokenizer.json: "

  [[noreturn]] void fail(const std::string& wanted) const;
  /// The member of an object; null if absent.
  Field operator[](const std::string& key) const;
  std::vector<std::pair<std::string, Field>> members() const;
  std::vector<Field> elements() const;
  std::vector<Field> list() const;  // elements of an array, nothing for null, else just this value
  const std::string& text() const;
  int64_t integer(int64_t least, int64_t most = std::numeric_limits<int64_t>::max()) const;
  double number(std::optional<double> if_absent = {}) const;
  bool flag(bool if_absent) const;
  void must_be(const nlohmann::json& only) const;
  void may_be(const nlohmann::json& only) const;  // or null or absent
};

}  // namespace tiny_zero
