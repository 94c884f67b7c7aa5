#include "tiny_zero/files/safetensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <fstream>

#include "tiny_zero/files/json.h"
#include "tiny_zero/files/safetensors_header.h"

namespace tiny_zero {
namespace {

const std::map<std::string, torch::Dtype> kTypes{
    {"F32", torch::kFloat32}, {"BF16", torch::kBFloat16}, {"F16", torch::kFloat16},
    {"F64", torch::kFloat64}, {"I64", torch::kInt64},     {"I32", torch::kInt32}};

}  // namespace

void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      std::optional<torch::Dtype> type) {
  Json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto wanted = type.value_or(tensor.scalar_type());
    const auto known = std::ranges::find(kTypes, wanted, [](const auto& k) { return k.second; });
    TORCH_CHECK(known != kTypes.end(), "save_safetensors: ", name, " has type ", wanted);
    const uint64_t end = offset + tensor.numel() * torch::elementSize(wanted);
    header[name] = {
        {"dtype", known->first}, {"shape", tensor.sizes().vec()}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins at a multiple of 8 bytes
  const uint64_t header_bytes = text.size();

  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes) << text;
  for (const auto& [name, tensor] : tensors) {
    const torch::Tensor plain =
        tensor.detach().cpu().to(type.value_or(tensor.scalar_type())).contiguous();
    file.write(static_cast<const char*>(plain.data_ptr()), plain.nbytes());
  }
  if (!file.flush())
    throw std::runtime_error(path.string() + ": cannot be written; is the disk full?");
}

TensorMap load_safetensors(const std::filesystem::path& path) {
  std::error_code error;
  const size_t size = std::filesystem::file_size(path, error);
  if (error || size == 0)
    throw std::runtime_error(path.string() + ": cannot be opened or is empty");
  // A private mapping, so that a write by mistake never reaches the disk.
  const auto mapped = torch::from_file(path.string(), /*shared=*/false, size, torch::kUInt8);
  char* bytes = static_cast<char*>(mapped.data_ptr());
  TensorMap tensors;
  for (const auto& stored : read_safetensors_header({bytes, size}, path.string()))
    tensors[stored.name] = torch::from_blob(
        bytes + stored.begin, stored.shape, [mapped](void*) {}, kTypes.at(stored.dtype));
  return tensors;
}

TensorMap load_model_tensors(const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors",
             index = directory / "model.safetensors.index.json";
  if (std::filesystem::exists(single) || !std::filesystem::exists(index))
    return load_safetensors(single);
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(visible(index.string() + ": " + what));
  };
  const Json weight_map = read_json(index, "").value("weight_map", Json());
  if (!weight_map.is_object()) fail("weight_map is missing or no object");
  std::map<std::string, TensorMap> shards;
  TensorMap all;
  for (const auto& [name, file] : weight_map.items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : "";
    if (shard.empty() || std::filesystem::path(shard).filename() != shard)
      fail("tensor " + name + " is in " + file.dump() +
           ", want the name of a file beside the index");
    if (!shards.contains(shard)) shards[shard] = load_safetensors(directory / shard);
    if (!all.insert(shards[shard].extract(name)).inserted)
      fail("tensor " + name + " is not in " + shard);
  }
  for (const auto& [shard, rest] : shards)
    if (!rest.empty())
      fail("does not list tensor " + rest.begin()->first + ", which is in " + shard);
  return all;
}

void forget_pages(const torch::Tensor& mapped) {
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data_ptr());
  const auto first = begin / kPage * kPage, size = begin + mapped.nbytes() - first;
  madvise(reinterpret_cast<void*>(first), size, MADV_DONTNEED);
}

}  // namespace tiny_zero
