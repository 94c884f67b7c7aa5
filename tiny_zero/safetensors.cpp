#include "tiny_zero/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <set>

#include "tiny_zero/files.h"
#include "tiny_zero/safetensors_header.h"

namespace tiny_zero {
namespace {

const std::map<std::string, torch::Dtype> kTypes{{"F32", torch::kFloat32}, {"BF16", torch::kBFloat16},
                                                 {"F16", torch::kFloat16}, {"F64", torch::kFloat64},
                                                 {"I64", torch::kInt64},   {"I32", torch::kInt32}};

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

void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      std::optional<torch::Dtype> type) {
  Json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto wanted = type.value_or(tensor.scalar_type());
    const auto known = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& k) { return k.second == wanted; });
    TORCH_CHECK(known != kTypes.end(), "save_safetensors: ", name, " has type ", wanted);
    const uint64_t end = offset + static_cast<uint64_t>(tensor.numel()) * torch::elementSize(wanted);
    header[name] = {{"dtype", known->first}, {"shape", tensor.sizes().vec()}, {"data_offsets", {offset, end}}};
    offset = end;
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
    const torch::Tensor plain = tensor.detach().cpu().to(type.value_or(tensor.scalar_type())).contiguous();
    write_all(plain.data_ptr(), plain.nbytes());
  }
  if (fsync(file) != 0) throw std::runtime_error(path.string() + ": cannot be flushed: " + std::strerror(errno));
}

TensorMap load_safetensors(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<Mapping>(path);
  TensorMap tensors;
  for (const auto& stored : read_safetensors_header(mapping->bytes(), path.string())) {
    tensors[stored.name] = torch::from_blob(
        mapping->bytes().data() + stored.begin, stored.shape, [mapping](void*) {}, kTypes.at(stored.dtype));
  }
  return tensors;
}

TensorMap load_model_tensors(const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors", index = directory / "model.safetensors.index.json";
  if (std::filesystem::exists(single) || !std::filesystem::exists(index)) return load_safetensors(single);
  const auto fail = [&](const std::string& what) { throw std::runtime_error(index.string() + ": " + what); };
  const Json places = read_json(index, "").value("weight_map", Json());
  if (!places.is_object()) fail("weight_map is missing or no object");
  std::map<std::string, TensorMap> shards;
  TensorMap all;
  for (const auto& [name, file] : places.items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : "";
    if (shard.empty() || std::filesystem::path(shard).filename() != shard)
      fail("tensor " + name + " is in " + file.dump() + ", want the name of a file beside the index");
    if (!shards.contains(shard)) shards[shard] = load_safetensors(directory / shard);
    if (!all.insert(shards[shard].extract(name)).inserted) fail("tensor " + name + " is not in " + shard);
  }
  for (const auto& [shard, rest] : shards) {
    if (!rest.empty()) fail("does not list tensor " + rest.begin()->first + ", which is in " + shard);
  }
  return all;
}

void forget_pages(const torch::Tensor& mapped) {
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data_ptr());
  const auto first = begin / kPage * kPage, size = begin + mapped.nbytes() - first;
  madvise(reinterpret_cast<void*>(first), size, MADV_DONTNEED);
}

}  // namespace tiny_zero
