#include "tiny_zero/model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tiny_zero/random.h"

namespace tiny_zero {

using torch::Tensor;

// ---- Forward pass -------------------------------------------------------------------------------

Tensor Model::narrow(const Tensor& parameter) const {
  return parameter.defined() ? parameter.to(compute_type_) : parameter;
}

Tensor Model::embed(const Tensor& ids) const { return narrow(torch::embedding(embedding_, ids)); }

template <class Attend>
Tensor Model::run_layers(Tensor x, const Attend& attend) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const Tensor normed = rms_norm(x, narrow(layer.input_norm), config_.norm_eps);
    Tensor qkv = torch::linear(normed, narrow(layer.qkv_weight), narrow(layer.qkv_bias));
    if (config_.qk_norm()) qkv = norm_queries_keys(qkv, layer);
    x = torch::addmm(x, attend(i, qkv), narrow(layer.output_weight).t());
    const Tensor gate_up = torch::linear(rms_norm(x, narrow(layer.ffn_norm), config_.norm_eps),
                                         narrow(layer.gate_up_weight));
    x = torch::addmm(x, swiglu(gate_up), narrow(layer.down_weight).t());
  }
  return rms_norm(x, narrow(final_norm_), config_.norm_eps);
}

/// RMSNorm over each head of the queries and keys.   [Qwen3]   @param qkv (N, (H + 2K) D)   @return
/// the same shape
Tensor Model::norm_queries_keys(const Tensor& qkv, const Layer& layer) const {
  const auto& [heads, kv_heads, dim] = config_.attention;
  const auto parts =
      qkv.view({qkv.size(0), -1, dim}).split_with_sizes({heads, kv_heads, kv_heads}, /*dim=*/1);
  const auto norm = [&, dim = dim](const Tensor& part, const Tensor& weight) {
    return rms_norm(part.reshape({-1, dim}), narrow(weight), config_.norm_eps).view(part.sizes());
  };
  return torch::cat({norm(parts[0], layer.query_norm), norm(parts[1], layer.key_norm), parts[2]},
                    /*dim=*/1)
      .view(qkv.sizes());
}

Tensor Model::hidden_states(const PackedTokens& tokens) const {
  if (at::GradMode::is_enabled()) gradients();
  return run_layers(embed(tokens.ids), [&](size_t, const Tensor& qkv) {
    return packed_attention(qkv, rope_, tokens.starts, config_.attention);
  });
}

Tensor Model::head_weight() const {
  const Tensor& head = lm_head_.defined() ? lm_head_ : embedding_;
  return device().is_cpu() ? head : narrow(head);
}

TokenLogProbs Model::log_probs(const Tensor& hidden, const Tensor& positions, const Tensor& targets,
                               double temperature, bool with_entropy) const {
  const Tensor weight = head_weight();
  return token_log_probs(hidden.index_select(0, positions).to(weight.scalar_type()), weight,
                         targets, temperature, config_.used_vocab_size, with_entropy);
}

Tensor Model::values(const Tensor& hidden, const Tensor& positions) const {
  TORCH_CHECK(value_head_.defined(), "this model has no value head");
  return torch::linear(hidden.index_select(0, positions).to(torch::kFloat32), value_head_)
      .squeeze(1);
}

std::vector<KvCache> Model::make_cache(int64_t rows, int64_t capacity) const {
  std::vector<KvCache> cache;
  const auto options = torch::device(device()).dtype(compute_type_);
  for (int64_t i = 0; i < config_.num_layers; ++i)
    cache.emplace_back(rows, capacity, config_.attention, options);
  return cache;
}

Tensor Model::prefill(const PackedTokens& prompts, std::vector<KvCache>& cache,
                      int64_t copies) const {
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
  const Tensor sources = on_device(source), row_ids = on_device(rows),
               position_ids = on_device(positions);
  const Tensor hidden = run_layers(embed(prompts.ids), [&](size_t i, const Tensor& qkv) {
    store_keys_values(cache[i], qkv.index_select(0, sources), rope_, config_.attention, row_ids,
                      position_ids);
    return packed_attention(qkv, rope_, prompts.starts, config_.attention);
  });
  return head_logits(hidden.index_select(0, on_device(last)), head_weight(),
                     config_.used_vocab_size);
}

Tensor Model::decode(const Tensor& ids, const Tensor& rows, const Tensor& positions,
                     std::vector<KvCache>& cache) const {
  const int64_t length = positions.max().item<int64_t>() + 1;
  const Tensor row_ids = rows.to(device()), position_ids = positions.to(device());
  const Tensor hidden = run_layers(embed(ids.to(device())), [&](size_t i, const Tensor& qkv) {
    return cached_attention(cache[i], qkv, rope_, config_.attention, row_ids, position_ids, length);
  });
  return head_logits(hidden, head_weight(), config_.used_vocab_size);
}

PackedTokens PackedTokens::from(const std::vector<std::vector<int64_t>>& sequences,
                                const torch::Device& device) {
  PackedTokens packed;
  std::vector<int64_t> ids;
  for (const auto& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    packed.starts.push_back(static_cast<int64_t>(ids.size()));
  }
  packed.ids = torch::tensor(ids, torch::kInt64).to(device);
  return packed;
}

// ---- Construction -------------------------------------------------------------------------------

std::vector<Model::Place> Model::places() {
  const int64_t d = config_.hidden_size, f = config_.ffn_size,
                width = config_.attention.qkv_width();
  const int64_t head_dim = config_.attention.head_dim;
  std::vector<Place> places{{&embedding_, {config_.vocab_size, d}}};
  for (auto& layer : layers_) {
    places.insert(places.end(), {{&layer.input_norm, {d}}, {&layer.qkv_weight, {width, d}}});
    if (config_.qkv_bias()) places.push_back({&layer.qkv_bias, {width}});
    if (config_.qk_norm())
      places.insert(places.end(), {{&layer.query_norm, {head_dim}}, {&layer.key_norm, {head_dim}}});
    places.insert(places.end(),
                  {{&layer.output_weight, {d, config_.attention.num_heads * head_dim}},
                   {&layer.ffn_norm, {d}},
                   {&layer.gate_up_weight, {2 * f, d}},
                   {&layer.down_weight, {d, f}}});
  }
  places.push_back({&final_norm_, {d}});
  if (head_ != Head::value && !config_.tie_embeddings)
    places.push_back({&lm_head_, {config_.vocab_size, d}});
  if (head_ != Head::language_model) places.push_back({&value_head_, {1, d}});
  return places;
}

/// (positions, D / 2) each. Angles in double: float loses 1e-4 at position 1e3.
static Rope make_rope(const ModelConfig& config, const torch::Device& device) {
  if (device.is_meta()) return {};
  const auto half = config.attention.head_dim / 2;
  const auto& scaling = config.rope_scaling;
  Tensor frequency = torch::pow(config.rope_theta,
                                -torch::arange(half, torch::kFloat64) / static_cast<double>(half));
  if (scaling.factor !=
      1) {  // waves longer than original / low are stretched, shorter than original / high kept
    const Tensor waves = frequency * (scaling.original_positions /
                                      (2 * std::numbers::pi));  // in the original length
    const Tensor kept =
        ((waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor));
    frequency = frequency * (kept.clamp(0, 1) * (1 - 1 / scaling.factor) + 1 / scaling.factor);
  }
  const Tensor angles =
      torch::outer(torch::arange(config.max_positions, torch::kFloat64), frequency);
  return {angles.cos().to(device, torch::kFloat32), angles.sin().to(device, torch::kFloat32)};
}

Model::Model(const ModelConfig& config, Head head, torch::Device device)
    : config_(config), head_(head), layers_(config.num_layers), rope_(make_rope(config, device)) {
  int64_t count = 0, offset = 0;
  for (const auto& place : places()) count += c10::multiply_integers(place.shape);
  parameters_ = torch::zeros({count}, torch::device(device));
  for (const auto& [tensor, shape] : places()) {  // leaves that share the flat vector's memory
    const int64_t size = c10::multiply_integers(shape);
    *tensor = parameters_.narrow(0, offset, size).view(shape).detach().set_requires_grad(true);
    leaves_.push_back(*tensor);
    offset += size;
  }
}

Model::Model(const ModelConfig& config, Head head, uint64_t seed, torch::Device device)
    : Model(config, head, device) {
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::weights));
  const auto fill = [&](Tensor& weight, double deviation) {
    if (weight.defined())
      weight.copy_(torch::empty(weight.sizes()).normal_(0.0, deviation, generator));
  };
  const double deviation = 0.02,
               residual_deviation =
                   deviation / std::sqrt(2.0 * static_cast<double>(config.num_layers));
  fill(embedding_, deviation);
  for (auto& layer : layers_) {
    for (Tensor* norm : {&layer.input_norm, &layer.ffn_norm, &layer.query_norm, &layer.key_norm}) {
      if (norm->defined()) norm->fill_(1.0);
    }
    fill(layer.qkv_weight, deviation);
    fill(layer.output_weight, residual_deviation);
    fill(layer.gate_up_weight, deviation);
    fill(layer.down_weight, residual_deviation);
  }
  final_norm_.fill_(1.0);
  fill(lm_head_, deviation);
}

Tensor& Model::gradients() const {
  if (!gradients_.defined()) {
    gradients_ = torch::zeros_like(parameters_);
    for (const auto& leaf : leaves_) {
      leaf.mutable_grad() =
          gradients_.narrow(0, leaf.storage_offset(), leaf.numel()).view(leaf.sizes());
    }
  }
  return gradients_;
}

Model Model::clone(Head head) const {
  const at::NoGradGuard no_grad;
  Model copy(config_, head, device());
  copy.compute_type_ = compute_type_;
  const NamedTensors own = named_tensors();
  const TensorMap by_name(own.begin(), own.end());
  for (auto& [name, target] : copy.named_tensors()) {
    if (by_name.contains(name)) target.copy_(by_name.at(name));
  }
  return copy;
}

Model Model::narrowed() const {
  Model copy = *this;
  for (auto& place : copy.places()) *place.tensor = place.tensor->detach().to(compute_type_);
  if (device().is_cpu()) copy.lm_head_ = head_weight().detach();
  return copy;
}

void Model::limit_vocabulary(int64_t size) {
  if (size > config_.vocab_size) {
    throw std::invalid_argument(
        "the tokenizer has " + std::to_string(size) + " ids, the model's embedding only " +
        std::to_string(config_.vocab_size) + " rows: do they belong together?");
  }
  config_.used_vocab_size = size;
}

// ---- Files --------------------------------------------------------------------------------------

NamedTensors Model::named_tensors() const {
  NamedTensors named{{"model.embed_tokens.weight", embedding_}};
  const auto& a = config_.attention;
  const int64_t q = a.num_heads * a.head_dim, kv = a.num_kv_heads * a.head_dim,
                f = config_.ffn_size;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const Layer& layer = layers_[i];
    const auto add = [&](const std::string& name, const Tensor& tensor) {
      named.emplace_back(prefix + name, tensor);
    };
    add("input_layernorm.weight", layer.input_norm);
    for (const auto& [part, tensor] :
         {std::pair{"weight", layer.qkv_weight}, std::pair{"bias", layer.qkv_bias}}) {
      if (!tensor.defined()) continue;
      add(std::string("self_attn.q_proj.") + part, tensor.narrow(0, 0, q));
      add(std::string("self_attn.k_proj.") + part, tensor.narrow(0, q, kv));
      add(std::string("self_attn.v_proj.") + part, tensor.narrow(0, q + kv, kv));
    }
    if (config_.qk_norm()) add("self_attn.q_norm.weight", layer.query_norm);
    if (config_.qk_norm()) add("self_attn.k_norm.weight", layer.key_norm);
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

NamedTensors Model::named_gradients() const {
  NamedTensors named = named_tensors();
  for (auto& [name, tensor] :
       named) {  // contiguous slices of the flat vector, so of the gradients' too
    tensor = gradients().narrow(0, tensor.storage_offset(), tensor.numel()).view(tensor.sizes());
  }
  return named;
}

Model Model::load(const std::filesystem::path& directory, Head head, torch::Device device) {
  const at::NoGradGuard no_grad;
  const auto config = ModelConfig::from_file(directory / "config.json");
  TensorMap stored = load_model_tensors(directory);
  const auto fail = [&](const std::string& name, const std::string& what) {
    throw std::runtime_error(directory.string() + ": tensor " + name + what +
                             "; do config.json and weights belong together?");
  };
  const NamedTensors wanted =
      Model(config, head, torch::kMeta).named_tensors();  // shapes without memory
  for (const auto& [name, tensor] : wanted) {
    const auto found = stored.find(name);
    if (found == stored.end() && name == "value_head.weight") continue;
    if (found == stored.end()) fail(name, " is missing from the weights");
    if (found->second.sizes() != tensor.sizes() || !found->second.is_floating_point())
      fail(name, c10::str(" is ", found->second.toString(), found->second.sizes(),
                          ", config.json wants floats ", tensor.sizes()));
  }
  for (const auto& [name, tensor] : stored) {
    const bool known = std::any_of(wanted.begin(), wanted.end(),
                                   [&, &n = name](const auto& w) { return w.first == n; });
    const bool spare = name == "value_head.weight" || name.ends_with("rotary_emb.inv_freq") ||
                       (name == "lm_head.weight" && (config.tie_embeddings || head == Head::value));
    if (!known && !spare)
      fail(name,
           " is in the weights, but a model of type " + config.family + " has none of this name");
  }
  Model model(config, head, device);
  for (auto& [name, tensor] : model.named_tensors()) {
    if (!stored.contains(name)) continue;
    tensor.copy_(stored.at(name));
    forget_pages(stored.at(name));  // what was read would otherwise be a second copy in memory
  }
  return model;
}

void Model::save(const std::filesystem::path& directory, torch::Dtype dtype) const {
  std::filesystem::create_directories(directory);
  config_.to_file(directory / "config.json", dtype);
  save_safetensors(directory / "model.safetensors", named_tensors(), dtype);
}

std::filesystem::path model_directory(const Config& config) {
  if (config.model.empty())
    throw std::invalid_argument("model is empty, want a model directory: --model DIR");
  return config.model;
}

LoadedModel load_model(const Config& config) {
  const auto directory = model_directory(config);
  LoadedModel loaded{Tokenizer::from_file(directory / "tokenizer.json"),
                     Model::load(directory, Head::language_model, torch::Device(config.device))};
  loaded.model.limit_vocabulary(static_cast<int64_t>(loaded.tokenizer.vocab_size()));
  loaded.model.set_compute_type(to_dtype(config.compute_type));
  return loaded;
}

}  // namespace tiny_zero
