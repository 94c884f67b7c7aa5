#include "tiny_zero/methods/lora.h"

#include <cmath>
#include <set>

#include "tiny_zero/files/json.h"
#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/model.h"
#include "tiny_zero/random.h"

namespace tiny_zero {

namespace fs = std::filesystem;
using torch::Tensor;

Tensor LowRank::added_to(const Tensor& weight, double scale) const {
  return a.defined() ? torch::addmm(weight, b, a, /*beta=*/1, /*alpha=*/scale) : weight;
}

std::string checksum_of_weights(const fs::path& directory) {
  const std::set<fs::path> files(fs::directory_iterator{directory}, fs::directory_iterator{});
  std::string sums;
  for (const auto& file : files)
    if (file.extension() == ".safetensors")
      sums += checksum(std::ifstream(file, std::ios::binary)) + " ";
  return sums;
}

void save_adapters(const fs::path& directory, const Lora& lora, const NamedTensors& adapters) {
  const Json fields{{"base_model", lora.base.string()},
                    {"base_checksum", lora.base_checksum},
                    {"rank", lora.rank},
                    {"alpha", lora.alpha}};
  write_text(directory / "lora.json", fields.dump(2) + "\n");
  save_safetensors(directory / "adapters.safetensors", adapters);
}

Lora read_lora(const fs::path& directory) {
  const fs::path path = directory / "lora.json";
  const nlohmann::json source = read_json(path, "it names the adapters' base model");
  const Field fields{source, path.string() + ": "};
  const Lora lora{fields["rank"].integer(1, 1 << 24), fields["alpha"].number(),
                  fields["base_model"].text(), fields["base_checksum"].text()};
  const std::string place = path.string() + ": base_model is \"" + lora.base.string() + "\", ";
  if (!fs::exists(lora.base / "config.json"))
    throw std::runtime_error(place +
                             "where no model is; put it back there, or a symbolic link to it");
  if (checksum_of_weights(lora.base) != lora.base_checksum)
    throw std::runtime_error(
        place + "whose weights are not those that the adapters were trained on; put those back");
  return lora;
}

std::vector<std::pair<std::string, Model::Matrix*>> Model::matrices() {
  std::vector<std::pair<std::string, Matrix*>> list;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const std::string place = "model.layers." + std::to_string(i) + ".";
    list.emplace_back(place + "self_attn.qkv_proj", &layer.qkv);
    list.emplace_back(place + "self_attn.o_proj", &layer.output);
    list.emplace_back(place + "mlp.gate_up_proj", &layer.gate_up);
    list.emplace_back(place + "mlp.down_proj", &layer.down);
  }
  return list;
}

Model Model::with_adapters(const Lora& lora, uint64_t seed) const {
  TORCH_CHECK(!base_, "with_adapters: this model has adapters, want merged()");
  const at::NoGradGuard no_grad;
  Model model = *this;
  model.lora_ = lora;
  model.base_ = std::make_shared<Model>(*this);
  for (auto& parameter : model.list_parameters()) *parameter.tensor = parameter.tensor->detach();
  std::vector<Parameter> list;
  for (const auto& [name, matrix] : model.matrices()) {
    const int64_t rows = matrix->weight.size(0), columns = matrix->weight.size(1);
    if (lora.rank > std::min(rows, columns))
      throw std::invalid_argument(c10::str("lora-rank is ", lora.rank, ", but ", name, " is (",
                                           rows, ", ", columns,
                                           "), want at most the smaller; 0 trains all weights"));
    list.push_back({name + ".lora_A.weight", &matrix->adapter.a, {lora.rank, columns}});
    list.push_back({name + ".lora_B.weight", &matrix->adapter.b, {rows, lora.rank}});
  }
  model.allocate(list);
  if (device().is_meta()) return model;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::lora));
  for (const auto& [name, matrix] : model.matrices()) {  // B stays 0: the model is its base
    Tensor& a = matrix->adapter.a;
    const double bound = 1 / std::sqrt(a.size(1));
    a.copy_(torch::empty(a.sizes()).uniform_(-bound, bound, generator));
  }
  return model;
}

}  // namespace tiny_zero
