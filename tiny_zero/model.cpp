#include "tiny_zero/model.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tiny_zero/random.h"
#include "tiny_zero/safetensors.h"

namespace tiny_zero {

using torch::Tensor;
using torch::indexing::Slice;
using json = nlohmann::ordered_json;

ModelConfig ModelConfig::from_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument(path.string() + " cannot be opened; --model wants a directory that holds it");
  const json fields = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!fields.is_object()) throw std::invalid_argument(path.string() + " is not a JSON object");
  const auto require = [&](const char* name, const json& wanted) {
    if (fields.value(name, wanted) != wanted) {
      throw std::invalid_argument(path.string() + ": " + name + " is " + fields[name].dump() + ", supported is " +
                                  wanted.dump());
    }
  };
  ModelConfig config;
  try {
    require("model_type", "qwen2");
    require("hidden_act", "silu");
    require("rope_scaling", nullptr);
    require("use_sliding_window", false);
    config.vocab_size = config.used_vocab_size = fields.at("vocab_size");
    config.hidden_size = fields.at("hidden_size");
    config.num_layers = fields.at("num_hidden_layers");
    config.ffn_size = fields.at("intermediate_size");
    config.attention.num_heads = fields.at("num_attention_heads");
    config.attention.num_kv_heads = fields.value("num_key_value_heads", config.attention.num_heads);
    const int64_t heads = config.attention.num_heads;
    config.attention.head_dim = fields.value("head_dim", heads > 0 ? config.hidden_size / heads : 0);
    config.max_positions = fields.at("max_position_embeddings");
    const json rope = fields.value("rope_parameters", json::object());  // where newer files keep rope_theta
    if (rope.value("rope_type", "default") != "default") {
      throw std::invalid_argument(path.string() + ": rope_parameters is " + rope.dump() +
                                  ", supported is rope_type \"default\"");
    }
    config.rope_theta = rope.value("rope_theta", fields.value("rope_theta", config.rope_theta));
    config.norm_eps = fields.value("rms_norm_eps", config.norm_eps);
    config.tie_embeddings = fields.value("tie_word_embeddings", false);
    const json end = fields.value("eos_token_id", json());
    if (end.is_number_integer()) config.end_ids = {end.get<int64_t>()};
    if (end.is_array()) config.end_ids = end.get<std::vector<int64_t>>();
  } catch (const json::exception& error) {
    throw std::invalid_argument(path.string() + ": " + error.what());
  }
  const auto& heads = config.attention;
  const bool possible = std::min({config.vocab_size, config.hidden_size, config.num_layers, config.ffn_size,
                                  heads.num_heads, heads.num_kv_heads, heads.head_dim, config.max_positions}) > 0 &&
                        heads.num_heads % heads.num_kv_heads == 0 && heads.head_dim % 2 == 0;
  if (!possible)
    throw std::invalid_argument(path.string() + ": sizes must be positive, heads a multiple of key-value heads");
  return config;
}

ModelConfig ModelConfig::from_settings(const Config& settings, int64_t vocab_size) {
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = vocab_size;
  config.hidden_size = settings.hidden;
  config.num_layers = settings.layers;
  config.attention = {settings.heads, settings.kv_heads, settings.hidden / settings.heads};
  config.ffn_size = settings.ffn;
  config.max_positions = settings.max_positions;
  config.rope_theta = settings.rope_theta;
  return config;
}

void ModelConfig::to_file(const std::filesystem::path& path, torch::Dtype dtype) const {
  const json fields = {{"architectures", {"Qwen2ForCausalLM"}},
                       {"model_type", "qwen2"},
                       {"hidden_act", "silu"},
                       {"hidden_size", hidden_size},
                       {"intermediate_size", ffn_size},
                       {"max_position_embeddings", max_positions},
                       {"num_attention_heads", attention.num_heads},
                       {"num_hidden_layers", num_layers},
                       {"num_key_value_heads", attention.num_kv_heads},
                       {"head_dim", attention.head_dim},
                       {"rms_norm_eps", norm_eps},
                       {"rope_theta", rope_theta},
                       {"tie_word_embeddings", tie_embeddings},
                       {"torch_dtype", dtype == torch::kBFloat16 ? "bfloat16" : "float32"},
                       {"use_sliding_window", false},
                       {"eos_token_id", end_ids.size() == 1 ? json(end_ids[0]) : json(end_ids)},
                       {"vocab_size", vocab_size}};
  std::ofstream file(path);
  file << fields.dump(2) << '\n';
  if (!file.flush()) throw std::runtime_error(path.string() + " cannot be written");
}

PackedTokens PackedTokens::from(const std::vector<std::vector<int64_t>>& sequences, const torch::Device& device) {
  PackedTokens packed;
  std::vector<int64_t> ids;
  for (const auto& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    packed.starts.push_back(static_cast<int64_t>(ids.size()));
  }
  packed.ids = torch::tensor(ids, torch::kInt64).to(device);
  return packed;
}

Model::Model(const ModelConfig& config, Head head, torch::Device device) : config_(config), head_(head) {
  struct Place {
    Tensor* tensor;
    std::vector<int64_t> shape;
  };
  layers_.resize(config.num_layers);
  const int64_t d = config.hidden_size, f = config.ffn_size, width = config.attention.qkv_width();
  std::vector<Place> places{{&embedding_, {config.vocab_size, d}}};
  for (auto& layer : layers_) {
    places.insert(places.end(), {{&layer.input_norm, {d}},
                                 {&layer.qkv_weight, {width, d}},
                                 {&layer.qkv_bias, {width}},
                                 {&layer.output_weight, {d, config.attention.num_heads * config.attention.head_dim}},
                                 {&layer.ffn_norm, {d}},
                                 {&layer.gate_up_weight, {2 * f, d}},
                                 {&layer.down_weight, {d, f}}});
  }
  places.push_back({&final_norm_, {d}});
  if (head != Head::value && !config.tie_embeddings) places.push_back({&lm_head_, {config.vocab_size, d}});
  if (head != Head::language_model) places.push_back({&value_head_, {1, d}});

  int64_t count = 0;
  for (const auto& place : places) count += c10::multiply_integers(place.shape);
  parameters_ = torch::zeros({count}, torch::device(device));
  gradients_ = torch::zeros({count}, torch::device(device));
  int64_t offset = 0;
  for (const auto& [tensor, shape] : places) {  // leaves that share the flat vectors' memory
    const int64_t size = c10::multiply_integers(shape);
    *tensor = parameters_.narrow(0, offset, size).view(shape).detach().set_requires_grad(true);
    tensor->mutable_grad() = gradients_.narrow(0, offset, size).view(shape);
    offset += size;
  }

  const int64_t half = config.attention.head_dim / 2;  // angles in double: float loses 1e-4 at position 1e3
  const Tensor frequency =
      torch::pow(config.rope_theta, -torch::arange(half, torch::kFloat64) / static_cast<double>(half));
  const Tensor angles = torch::outer(torch::arange(config.max_positions, torch::kFloat64), frequency);
  rope_ = {angles.cos().to(device, torch::kFloat32), angles.sin().to(device, torch::kFloat32)};
}

Model::Model(const ModelConfig& config, Head head, uint64_t seed, torch::Device device) : Model(config, head, device) {
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::weights));
  const auto fill = [&](Tensor& weight, double deviation) {
    if (weight.defined()) weight.copy_(torch::empty(weight.sizes()).normal_(0.0, deviation, generator));
  };
  const double deviation = 0.02,
               residual_deviation = deviation / std::sqrt(2.0 * static_cast<double>(config.num_layers));
  fill(embedding_, deviation);
  for (auto& layer : layers_) {
    layer.input_norm.fill_(1.0);
    layer.ffn_norm.fill_(1.0);
    fill(layer.qkv_weight, deviation);
    fill(layer.output_weight, residual_deviation);
    fill(layer.gate_up_weight, deviation);
    fill(layer.down_weight, residual_deviation);
  }
  final_norm_.fill_(1.0);
  fill(lm_head_, deviation);
}

Model::NamedTensors Model::named_tensors() const {
  NamedTensors named{{"model.embed_tokens.weight", embedding_}};
  const auto& a = config_.attention;
  const int64_t q = a.num_heads * a.head_dim, kv = a.num_kv_heads * a.head_dim, f = config_.ffn_size;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const Layer& layer = layers_[i];
    const auto add = [&](const std::string& name, const Tensor& tensor) { named.emplace_back(prefix + name, tensor); };
    add("input_layernorm.weight", layer.input_norm);
    for (const auto& [part, tensor] : {std::pair{"weight", layer.qkv_weight}, std::pair{"bias", layer.qkv_bias}}) {
      add(std::string("self_attn.q_proj.") + part, tensor.narrow(0, 0, q));
      add(std::string("self_attn.k_proj.") + part, tensor.narrow(0, q, kv));
      add(std::string("self_attn.v_proj.") + part, tensor.narrow(0, q + kv, kv));
    }
    add("self_attn.o_proj.weight", layer.output_weight);
    add("post_attention_layernorm.weight", layer.ffn_norm);
    add("mlp.gate_proj.weight", layer.gate_up_weight.narrow(0, 0, f));
    add("mlp.up_proj.weight", layer.gate_up_weight.narrow(0, f, f));
    add("mlp.down_proj.weight", layer.down_weight);
  }
  named.emplace_back("model.norm.weight", final_norm_);
  if (lm_head_.defined()) named.emplace_back("lm_head.weight", lm_head_);
  if (value_head_.defined()) named.emplace_back("value_head.weight", value_head_);
  return named;
}

Model Model::load(const std::filesystem::path& directory, Head head, torch::Device device) {
  const at::NoGradGuard no_grad;
  Model model(ModelConfig::from_file(directory / "config.json"), head, device);
  const auto path = directory / "model.safetensors";
  const auto stored = load_safetensors(path);
  for (auto& [name, tensor] : model.named_tensors()) {
    const auto found = stored.find(name);
    if (found == stored.end() && name == "value_head.weight") continue;
    if (found == stored.end()) throw std::runtime_error(path.string() + ": tensor " + name + " is missing");
    if (found->second.sizes() != tensor.sizes()) {
      throw std::runtime_error(c10::str(path.string(), ": tensor ", name, " is ", found->second.sizes(),
                                        ", config.json wants ", tensor.sizes()));
    }
    tensor.copy_(found->second);
  }
  return model;
}

void Model::save(const std::filesystem::path& directory) const {
  std::filesystem::create_directories(directory);
  config_.to_file(directory / "config.json", torch::kFloat32);
  save_safetensors(directory / "model.safetensors", named_tensors());
}

Model Model::clone(Head head) const {
  const at::NoGradGuard no_grad;
  Model copy(config_, head, device());
  copy.compute_type_ = compute_type_;
  auto targets = copy.named_tensors();
  for (const auto& [name, tensor] : named_tensors()) {
    for (auto& [target_name, target] : targets) {
      if (name == target_name) target.copy_(tensor);
    }
  }
  return copy;
}

void Model::limit_vocabulary(int64_t size) {
  if (size > config_.vocab_size) {
    throw std::invalid_argument("the tokenizer has " + std::to_string(size) + " ids, the model's embedding only " +
                                std::to_string(config_.vocab_size) + " rows: do they belong together?");
  }
  config_.used_vocab_size = size;
}

Tensor Model::narrow(const Tensor& parameter) const { return parameter.to(compute_type_); }

Tensor Model::head_weight() const { return narrow(lm_head_.defined() ? lm_head_ : embedding_); }

Tensor Model::embed(const Tensor& ids) const { return narrow(torch::embedding(embedding_, ids)); }

template <class Attend>
Tensor Model::run_layers(Tensor x, const Attend& attend) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const Tensor normed = rms_norm(x, narrow(layer.input_norm), config_.norm_eps);
    const Tensor qkv = torch::linear(normed, narrow(layer.qkv_weight), narrow(layer.qkv_bias));
    x = torch::addmm(x, attend(i, qkv), narrow(layer.output_weight).t());
    const Tensor gate_up =
        torch::linear(rms_norm(x, narrow(layer.ffn_norm), config_.norm_eps), narrow(layer.gate_up_weight));
    x = torch::addmm(x, swiglu(gate_up), narrow(layer.down_weight).t());
  }
  return rms_norm(x, narrow(final_norm_), config_.norm_eps);
}

Tensor Model::hidden_states(const PackedTokens& tokens) const {
  return run_layers(embed(tokens.ids), [&](size_t, const Tensor& qkv) {
    return packed_attention(qkv, rope_, tokens.starts, config_.attention);
  });
}

TokenLogProbs Model::log_probs(const Tensor& hidden, const Tensor& positions, const Tensor& targets, double temperature,
                               bool with_entropy) const {
  return token_log_probs(hidden.index_select(0, positions), head_weight(), targets, temperature,
                         config_.used_vocab_size, with_entropy);
}

Tensor Model::values(const Tensor& hidden, const Tensor& positions) const {
  TORCH_CHECK(value_head_.defined(), "this model has no value head");
  return torch::linear(hidden.index_select(0, positions).to(torch::kFloat32), value_head_).squeeze(1);
}

std::vector<KvCache> Model::make_cache(int64_t rows, int64_t capacity) const {
  std::vector<KvCache> cache;
  const auto options = torch::device(device()).dtype(compute_type_);
  for (int64_t i = 0; i < config_.num_layers; ++i) cache.emplace_back(rows, capacity, config_.attention, options);
  return cache;
}

Tensor Model::prefill(const PackedTokens& prompts, std::vector<KvCache>& cache, int64_t copies) const {
  std::vector<int64_t> source, rows, positions, last;  // packed token -> its places in the cache
  for (size_t s = 0; s + 1 < prompts.starts.size(); ++s) {
    last.push_back(prompts.starts[s + 1] - 1);
    for (int64_t copy = 0; copy < copies; ++copy) {
      for (int64_t i = prompts.starts[s]; i < prompts.starts[s + 1]; ++i) {
        source.push_back(i);
        rows.push_back(static_cast<int64_t>(s) * copies + copy);
        positions.push_back(i - prompts.starts[s]);
      }
    }
  }
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return torch::tensor(values, torch::kInt64).to(device());
  };
  const Tensor sources = on_device(source), row_ids = on_device(rows), position_ids = on_device(positions);
  const Tensor hidden = run_layers(embed(prompts.ids), [&](size_t i, const Tensor& qkv) {
    store_keys_values(cache[i], qkv.index_select(0, sources), rope_, config_.attention, row_ids, position_ids);
    return packed_attention(qkv, rope_, prompts.starts, config_.attention);
  });
  return head_logits(hidden.index_select(0, on_device(last)), head_weight(), config_.used_vocab_size);
}

Tensor Model::decode(const Tensor& ids, const Tensor& rows, const Tensor& positions,
                     std::vector<KvCache>& cache) const {
  const Tensor hidden = run_layers(embed(ids), [&](size_t i, const Tensor& qkv) {
    return cached_attention(cache[i], qkv, rope_, config_.attention, rows, positions);
  });
  return head_logits(hidden, head_weight(), config_.used_vocab_size);
}

}  // namespace tiny_zero
