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
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") files.insert(entry.path());
  std::string sums;
  for (const auto& file : files) sums += checksum(std::ifstream(file, std::ios::binary)) + " ";
  return sums;
}

bool holds_adapters(const fs::path& directory) { return fs::exists(directory / "lora.json"); }

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
    throw std::runtime_error(place +
                             "whose weights are not those that the adapters were trained on; put "
                             "the old ones back");
  return lora;
}

std::vector<Model::Matrix> Model::matrices() {
  std::vector<Matrix> list;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const std::string place = "model.layers." + std::to_string(i) + ".";
    list.push_back({place + "self_attn.qkv_proj", &layer.qkv_weight, &layer.qkv_adapter});
    list.push_back({place + "self_attn.o_proj", &layer.output_weight, &layer.output_adapter});
    list.push_back({place + "mlp.gate_up_proj", &layer.gate_up_weight, &layer.gate_up_adapter});
    list.push_back({place + "mlp.down_proj", &layer.down_weight, &layer.down_adapter});
  }
  return list;
}

Model Model::with_adapters(const Lora& lora, uint64_t seed) const {
  TORCH_CHECK(lora_.rank == 0, "with_adapters: this model has adapters, want merged()");
  const at::NoGradGuard no_grad;
  Model model = *this;
  model.lora_ = lora;
  model.base_parameters_ = parameters_;
  model.base_named_ = std::exchange(model.named_, {});
  for (auto& parameter : model.list_parameters()) *parameter.tensor = parameter.tensor->detach();
  model.leaves_.clear();
  model.gradients_.reset();
  std::vector<Parameter> list;
  for (const auto& [name, weight, adapter] : model.matrices()) {
    if (lora.rank > std::min(weight->size(0), weight->size(1)))
      throw std::invalid_argument(c10::str("lora-rank is ", lora.rank, ", but ", name, " is (",
                                           weight->size(0), ", ", weight->size(1),
                                           "), want at most the smaller; 0 trains all weights"));
    list.push_back({name + ".lora_A.weight", &adapter->a, {lora.rank, weight->size(1)}});
    list.push_back({name + ".lora_B.weight", &adapter->b, {weight->size(0), lora.rank}});
  }
  model.allocate(list);
  if (device().is_meta()) return model;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::lora));
  for (const auto& matrix : model.matrices()) {  // B stays 0, so that the model is its base
    Tensor& a = matrix.adapter->a;
    const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
    a.copy_(torch::empty(a.sizes()).uniform_(-bound, bound, generator));
  }
  return model;
}

Model Model::without_adapters() const {
  TORCH_CHECK(lora_.rank > 0, "without_adapters: this model has none");
  Model model = *this;
  model.lora_ = {};
  model.parameters_ = base_parameters_;
  model.named_ = base_named_;
  model.leaves_.clear();
  model.gradients_.reset();
  for (const auto& matrix : model.matrices()) *matrix.adapter = {};
  return model;
}

}  // namespace tiny_zero
