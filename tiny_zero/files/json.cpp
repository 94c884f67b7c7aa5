#include "tiny_zero/files/json.h"

#include <utf8proc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>

namespace tiny_zero {

namespace fs = std::filesystem;

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush())
    throw std::runtime_error(path.string() + " cannot be written: " + std::strerror(errno));
}

std::string visible(std::string_view text) {
  std::string result;
  for (int64_t bytes = 0; !text.empty(); text.remove_prefix(std::max<int64_t>(bytes, 1))) {
    int32_t code = -1;
    bytes =
        utf8proc_iterate(reinterpret_cast<const uint8_t*>(text.data()), std::ssize(text), &code);
    if (bytes <= 0) {
      result += "\uFFFD";
    } else if (utf8proc_category(code) != UTF8PROC_CATEGORY_CC || code == '\n' || code == '\t') {
      result += text.substr(0, bytes);
    } else {
      result += {'\\', 'x', "0123456789abcdef"[code / 16], "0123456789abcdef"[code % 16]};
    }
  }
  return result;
}

std::ifstream open_text(const fs::path& path, const std::string& wanted_for) {
  std::error_code ignored;
  const fs::file_status found = fs::status(path, ignored);
  std::ifstream file(path, std::ios::binary);
  const char* problem = fs::is_directory(found) ? "it is a directory"
                        : fs::is_character_file(found) || fs::is_block_file(found)
                            ? "it is a device"
                        : !file               ? std::strerror(errno)
                        : file.peek() == 0x1f ? "it is compressed; gunzip it first"
                                              : nullptr;
  if (problem != nullptr)
    throw std::invalid_argument(path.string() + " cannot be opened: " + problem + "; " +
                                wanted_for);
  file.clear();  // an empty file is no mistake here
  return file;
}

std::string read_text(const fs::path& path, const std::string& wanted_for) {
  const std::ifstream file = open_text(path, wanted_for);
  std::ostringstream text;
  if (!(text << file.rdbuf()))
    throw std::invalid_argument(path.string() + " is empty or cannot be read; " + wanted_for);
  return text.str();
}

template <class AnyJson>
AnyJson parse_json(std::string_view text, const std::string& place) try {
  return AnyJson::parse(text, [](int depth, typename AnyJson::parse_event_t, AnyJson&) {
    if (depth > kMaxJsonDepth) throw std::invalid_argument("nested too deep");
    return true;
  });
} catch (const std::exception& error) {
  throw std::invalid_argument(visible(place + "not JSON: " + error.what()));
}
template Json parse_json<Json>(std::string_view, const std::string&);
template nlohmann::json parse_json<nlohmann::json>(std::string_view, const std::string&);

Json read_json(const fs::path& path, const std::string& wanted_for) {
  const Json object = parse_json<Json>(read_text(path, wanted_for), path.string() + ": ");
  if (!object.is_object()) throw std::invalid_argument(path.string() + " is not a JSON object");
  return object;
}

bool next_row(std::istream& in, std::string& line, int64_t& number, const std::string& name) {
  // Not initialised: only what a line needs is ever touched.
  thread_local const auto buffer = std::make_unique_for_overwrite<char[]>(kMaxLineBytes + 1);
  do {
    ++number;
    in.getline(buffer.get(), kMaxLineBytes + 1);
    if (in.fail() && (in.bad() || !in.eof())) {
      const bool bad = in.bad();
      if (!bad) in.clear(), in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
      throw std::invalid_argument(
          (name.empty() ? "" : name + ":" + std::to_string(number) + ": ") +
          (bad ? "cannot be read"
               : "is longer than " + std::to_string(kMaxLineBytes >> 20) + " MiB"));
    }
    line.assign(buffer.get(), in.gcount() - (in.good() ? 1 : 0));  // without the newline
    if (line.find_first_not_of(" \t\r") != std::string::npos) return true;
  } while (in.good());
  return false;
}

void Field::fail(const std::string& wanted) const {
  std::string found = value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
  if (found.size() > 300) found = found.substr(0, 300) + "...";
  throw std::invalid_argument(visible(path + ": found " + found + ", want " + wanted));
}

Field Field::operator[](const std::string& key) const {
  static const nlohmann::json null;
  if (!value.is_object()) fail("an object");
  const auto member = value.find(key);
  return {member == value.end() ? null : *member, path + (path.ends_with(' ') ? "" : ".") + key};
}

std::vector<std::pair<std::string, Field>> Field::members() const {
  if (!value.is_object()) fail("an object");
  std::vector<std::pair<std::string, Field>> result;
  for (const auto& member : value.items()) result.emplace_back(member.key(), (*this)[member.key()]);
  return result;
}

std::vector<Field> Field::elements() const {
  if (!value.is_array()) fail("an array");
  std::vector<Field> result;
  for (size_t i = 0; i < value.size(); ++i)
    result.push_back({value[i], path + "[" + std::to_string(i) + "]"});
  return result;
}

std::vector<Field> Field::list() const {
  if (value.is_null()) return {};
  return value.is_array() ? elements() : std::vector{*this};
}

const std::string& Field::text() const {
  if (!value.is_string()) fail("a string");
  return value.get_ref<const std::string&>();
}

int64_t Field::integer(int64_t least, int64_t most) const {
  if (!value.is_number_integer() || value < least || value > most)
    fail("a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  return value.get<int64_t>();
}

double Field::number(std::optional<double> if_absent) const {
  if (value.is_null() && if_absent) return *if_absent;
  if (!value.is_number()) fail("a number");
  return value.get<double>();
}

bool Field::flag(bool if_absent) const {
  if (value.is_null()) return if_absent;
  if (!value.is_boolean()) fail("true or false");
  return value.get<bool>();
}

void Field::must_be(const nlohmann::json& only) const {
  if (value != only) fail(only.dump() + "; nothing else is supported");
}

void Field::may_be(const nlohmann::json& only) const {
  if (!value.is_null()) must_be(only);
}

}  // namespace tiny_zero
