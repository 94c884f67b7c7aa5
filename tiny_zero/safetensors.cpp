#include "tiny_zero/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>

namespace tiny_zero {
namespace {

using json = nlohmann::ordered_json;

constexpr std::array<std::pair<const char*, torch::Dtype>, 6> kTypes{{{"F32", torch::kFloat32},
                                                                      {"BF16", torch::kBFloat16},
                                                                      {"F16", torch::kFloat16},
                                                                      {"F64", torch::kFloat64},
                                                                      {"I64", torch::kInt64},
                                                                      {"I32", torch::kInt32}}};

/// A file mapped read-only; private, so that a write by mistake could never reach the disk.
class Mapping {
 public:
  explicit Mapping(const std::filesystem::path& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) throw std::runtime_error(path.string() + ": cannot be opened: " + std::strerror(errno));
    struct stat status {};
    const bool known = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
    void* address = known ? mmap(nullptr, status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (address == MAP_FAILED) throw std::runtime_error(path.string() + ": is empty or cannot be mapped");
    bytes_ = {static_cast<char*>(address), static_cast<size_t>(status.st_size)};
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(bytes_.data(), bytes_.size()); }
  std::span<char> bytes() const { return bytes_; }

 private:
  std::span<char> bytes_;
};

}  // namespace

void save_safetensors(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, torch::Tensor>>& tensors) {
  json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto type = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&, &t = tensor](const auto& known) { return known.second == t.scalar_type(); });
    TORCH_CHECK(type != kTypes.end(), "save_safetensors: ", name, " has type ", tensor.scalar_type());
    header[name] = {
        {"dtype", type->first}, {"shape", tensor.sizes().vec()}, {"data_offsets", {offset, offset + tensor.nbytes()}}};
    offset += tensor.nbytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8 bytes
  const uint64_t header_bytes = text.size();

  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const auto write_all = [&](const void* data, size_t size) {
    for (const char* at = static_cast<const char*>(data); size > 0;) {
      const ssize_t written = write(file, at, size);
      if (written <= 0) throw std::runtime_error(path.string() + ": cannot be written: " + std::strerror(errno));
      at += written;
      size -= static_cast<size_t>(written);
    }
  };
  if (file < 0) throw std::runtime_error(path.string() + ": cannot be created: " + std::strerror(errno));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&file,
                                                                [](const int* descriptor) { close(*descriptor); });
  write_all(&header_bytes, sizeof header_bytes);
  write_all(text.data(), text.size());
  for (const auto& [name, tensor] : tensors) {
    const torch::Tensor plain = tensor.detach().cpu().contiguous();
    write_all(plain.data_ptr(), plain.nbytes());
  }
  if (fsync(file) != 0) throw std::runtime_error(path.string() + ": cannot be flushed: " + std::strerror(errno));
}

std::map<std::string, torch::Tensor> load_safetensors(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<Mapping>(path);
  const auto bytes = mapping->bytes();
  const auto fail = [&](const std::string& what) { throw std::runtime_error(path.string() + ": " + what); };
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) fail("is too short for a safetensors file");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  if (header_bytes > bytes.size() - sizeof header_bytes) {
    fail("says its header has " + std::to_string(header_bytes) + " bytes, the file has " +
         std::to_string(bytes.size()));
  }
  const char* text = bytes.data() + sizeof header_bytes;
  const json header = json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) fail("its header is not a JSON object");
  const auto data = bytes.subspan(sizeof header_bytes + header_bytes);

  std::map<std::string, torch::Tensor> tensors;
  std::map<uint64_t, uint64_t> ranges;  // begin -> end, to find overlaps
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    try {
      const auto type_name = entry.at("dtype").get<std::string>();
      const auto type =
          std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return type_name == known.first; });
      if (type == kTypes.end()) fail("tensor " + name + " has the unsupported type " + type_name);
      const auto offsets = entry.at("data_offsets").get<std::array<uint64_t, 2>>();
      const auto shape = entry.at("shape").get<std::vector<uint64_t>>();
      uint64_t size = torch::elementSize(type->second);
      for (const uint64_t extent : shape) {
        if (extent > INT64_MAX || __builtin_mul_overflow(size, extent, &size))
          fail("tensor " + name + " has an impossible shape");
      }
      if (offsets[0] > offsets[1] || offsets[1] > data.size() || offsets[1] - offsets[0] != size) {
        fail("tensor " + name + " needs " + std::to_string(size) + " bytes, its range is " +
             entry.at("data_offsets").dump() + " of " + std::to_string(data.size()) + "; is the file truncated?");
      }
      if (size > 0 && !ranges.emplace(offsets[0], offsets[1]).second) fail("tensor " + name + " overlaps another");
      tensors[name] = torch::from_blob(
          data.data() + offsets[0], std::vector<int64_t>(shape.begin(), shape.end()), [mapping](void*) {},
          torch::TensorOptions(type->second));
    } catch (const nlohmann::json::exception& error) {
      fail("tensor " + name + ": " + error.what());
    }
  }
  uint64_t end = 0;
  for (const auto& [first, last] : ranges) {
    if (first < end) fail("its tensors overlap");
    end = last;
  }
  return tensors;
}

}  // namespace tiny_zero
