#include "tiny_zero/files/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include "tiny_zero/files/json.h"

namespace tiny_zero {

using nlohmann::json;

size_t safetensors_element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  return dtype == "BF16" || dtype == "F16" ? 2 : 0;
}

/// A size or offset; anything else is larger than every file.
static uint64_t as_size(const json& value) {
  return value.is_number_unsigned() ? value.get<uint64_t>() : UINT64_MAX;
}

std::vector<StoredTensor> read_safetensors_header(std::span<const char> file,
                                                  const std::string& name_for_errors) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(visible(name_for_errors + ": " + what));
  };
  uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes) fail("is too short for a safetensors file");
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  if (header_bytes > file.size() - sizeof header_bytes)
    fail("says its header has " + std::to_string(header_bytes) + " bytes, the file has " +
         std::to_string(file.size()) + "; is it truncated?");
  const size_t data = sizeof header_bytes + header_bytes, data_bytes = file.size() - data;
  std::set<std::string> names;
  const auto notice_name = [&](int depth, json::parse_event_t event, json& name) {
    if (depth > kMaxJsonDepth) fail("its header is nested too deep");
    if (depth == 1 && event == json::parse_event_t::key && !names.insert(name).second)
      fail("tensor " + name.get<std::string>() + " is listed twice");
    return true;
  };
  const json header =
      json::parse(file.begin() + sizeof header_bytes, file.begin() + static_cast<int64_t>(data),
                  notice_name, /*allow_exceptions=*/false);
  if (!header.is_object()) fail("its header is not a JSON object");

  std::vector<StoredTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    try {
      StoredTensor tensor{name, entry.at("dtype"), {}, 0, 0};
      uint64_t size = safetensors_element_bytes(tensor.dtype);
      if (size == 0) fail("tensor " + name + " has the unsupported type " + tensor.dtype);
      for (const json& extent : entry.at("shape").get_ref<const json::array_t&>()) {
        if (as_size(extent) > INT64_MAX || __builtin_mul_overflow(size, as_size(extent), &size))
          fail("tensor " + name + " has the impossible shape " + entry.at("shape").dump());
        tensor.shape.push_back(extent);
      }
      const json& offsets = entry.at("data_offsets");
      const uint64_t begin = as_size(offsets.at(0)), end = as_size(offsets.at(1));
      if (offsets.size() != 2 || begin > end || end > data_bytes || end - begin != size)
        fail("tensor " + name + " needs " + std::to_string(size) + " bytes, its range is " +
             offsets.dump() + " of " + std::to_string(data_bytes) + "; is the file truncated?");
      tensor.begin = data + begin;
      tensor.end = data + end;
      tensors.push_back(std::move(tensor));
    } catch (const json::exception& error) {
      fail("tensor " + name + ": " + error.what());
    }
  }
  const auto range = [](const StoredTensor& tensor) { return std::pair(tensor.begin, tensor.end); };
  std::ranges::sort(tensors, std::less(), range);
  size_t next = data;
  for (const auto& tensor : tensors) {
    if (tensor.begin != next)
      fail("tensor " + tensor.name + (tensor.begin < next ? " overlaps another" : " leaves a gap"));
    next = tensor.end;
  }
  if (next != file.size())
    fail("has " + std::to_string(file.size() - next) + " bytes that belong to no tensor");
  return tensors;
}

}  // namespace tiny_zero
