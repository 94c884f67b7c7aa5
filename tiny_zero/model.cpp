#include "tiny_zero/model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/random.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

namespace fs = std::filesystem;
using torch::Tensor;

// Shapes in comments: N packed tokens of S sequences, B rows of the cache, M scored positions;
// d hidden, f feed-forward; H query heads and K key-value heads of dimension D; V used ids of the
// vocabulary, V' with the padding.

// ---- Forward pass -------------------------------------------------------------------------------

Tensor Model::cast(const Tensor& parameter) const {
  const bool is_packed = !parameter.defined() || !parameter.is_floating_point();
  return is_packed ? parameter : parameter.to(compute_type_);
}

Tensor Model::embed(const Tensor& ids) const { return cast(torch::embedding(embedding_, ids)); }

/// The family's norm, per row.
/// @param x (N, d)   @return (N, d)
Tensor Model::norm(const Tensor& x, const Norm& weights) const {
  const int64_t d = config_.hidden_size;
  if (config_.all_bias())
    return torch::layer_norm(x, {d}, cast(weights.gain), cast(weights.bias), config_.norm_eps);
  const Tensor gain = config_.post_norm() ? torch::ones({d}, x.options()) : cast(weights.gain);
  return rms_norm(x, gain, config_.norm_eps);
}

/// What the feed-forward part hands to its last matrix.
/// @param x (N, d)   @return (N, f)
Tensor Model::ffn(const Tensor& x, const Layer& layer) const {
  const Tensor up = project(x, cast(layer.gate_up), cast(layer.up_bias));
  return config_.gated() ? swiglu(up) : torch::gelu(up);  // from (N, 2f); from (N, f)
}

/// x + a (part weight^T + bias), normed if the family norms sums; a is 1 but in their ramp.
/// @param x (N, d)   @param part (N, H D) or (N, f)   @return (N, d)
Tensor Model::add_part(const Tensor& x, const Tensor& part, const Tensor& cast_weight,
                       const Tensor& bias) const {
  Tensor sum = add_projection(x, part, cast_weight, config_.residual_scale);
  if (bias.defined()) sum = sum + cast(bias);  // no post-norm model has one
  return config_.post_norm() ? norm(sum, {}) : sum;
}

/// All blocks and the final norm. A post-norm model has its first norm before them [RoFormerV2].
/// @param x (N, d)
/// @param attend  maps a layer's index and its qkv (N, (H + 2K) D) to what the heads read, (N, H D)
/// @return (N, d)
template <class Attend>
Tensor Model::run_layers(Tensor x, const Attend& attend) const {
  const auto pre_norm = [&](const Norm& weights) {
    return config_.post_norm() ? x : norm(x, weights);  // (N, d)
  };
  if (config_.post_norm()) x = norm(x, {});
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    Tensor qkv = project(pre_norm(layer.input_norm), cast(layer.qkv), cast(layer.qkv_bias));
    if (config_.qk_norm()) qkv = norm_queries_keys(qkv, layer);  // (N, (H + 2K) D)
    x = add_part(x, attend(i, qkv), cast(layer.output), layer.output_bias);
    x = add_part(x, ffn(pre_norm(layer.ffn_norm), layer), cast(layer.down), layer.down_bias);
  }
  return pre_norm(final_norm_);
}

/// RMSNorm over each head of the queries and keys [Qwen3].
/// @param qkv (N, (H + 2K) D)   @return the same shape
Tensor Model::norm_queries_keys(const Tensor& qkv, const Layer& layer) const {
  const auto& [heads, kv_heads, dim] = config_.attention;
  const auto parts =  // (N, H, D), (N, K, D), (N, K, D)
      qkv.view({qkv.size(0), -1, dim}).split_with_sizes({heads, kv_heads, kv_heads}, /*dim=*/1);
  const auto norm = [&, dim = dim](const Tensor& part, const Tensor& weight) {
    return rms_norm(part.reshape({-1, dim}), cast(weight), config_.norm_eps).view(part.sizes());
  };
  return torch::cat({norm(parts[0], layer.query_norm), norm(parts[1], layer.key_norm), parts[2]},
                    /*dim=*/1)
      .view(qkv.sizes());
}

Tensor Model::hidden_states(const PackedTokens& tokens) const {
  if (at::GradMode::is_enabled()) gradients();  // so that backward() adds to the flat vector
  // Each row of the padding is a sequence of its own, of which nothing is read.
  auto [ids, starts, shared] = tokens;
  const int64_t rows = padded_rows(starts.back(), torch::device(device()).dtype(compute_type_));
  ids = torch::constant_pad_nd(ids, {0, rows - starts.back()});
  while (starts.back() < rows) starts.push_back(starts.back() + 1);
  if (!shared.empty()) shared.resize(starts.size() - 1);
  return run_layers(embed(ids), [&](size_t, const Tensor& qkv) {
    return packed_attention(qkv, rope_, starts, config_.attention, shared);
  });
}

/// The language model's head, (V', d). It stays float32 on the CPU, where a bfloat16 product would
/// round the logits.
Tensor Model::head_weight() const {
  const Tensor& head = lm_head_.defined() ? lm_head_ : embedding_;
  return device().is_cpu() ? head : cast(head);
}

TokenLogProbs Model::log_probs(const Tensor& hidden, const Tensor& positions, const Tensor& targets,
                               double temperature, bool with_entropy) const {
  const Tensor weight = head_weight();                                             // (V', d)
  const Tensor rows = hidden.to(weight.scalar_type()).index_select(0, positions);  // (M, d)
  return token_log_probs(rows, weight, targets, temperature, config_.used_vocab_size, with_entropy);
}

Tensor Model::values(const Tensor& hidden, const Tensor& positions) const {
  TORCH_CHECK(value_head_.defined(), "this model has no value head");
  return hidden.to(torch::kFloat32).index_select(0, positions).matmul(value_head_[0]);
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
  // Packed token sources[j] goes to row rows[j] of the cache, position positions[j].
  std::vector<int64_t> sources, rows, positions, last;
  for (size_t s = 0; s + 1 < prompts.starts.size(); ++s) {
    last.push_back(prompts.starts[s + 1] - 1);
    for (int64_t copy = 0; copy < copies; ++copy) {
      for (int64_t i = prompts.starts[s]; i < prompts.starts[s + 1]; ++i) {
        sources.push_back(i);
        rows.push_back(static_cast<int64_t>(s) * copies + copy);
        positions.push_back(i - prompts.starts[s]);
      }
    }
  }
  const auto on_device = [&](const auto& values) { return torch::tensor(values).to(device()); };
  const Tensor source_ids = on_device(sources);      // (N copies,)
  const Tensor row_ids = on_device(rows);            // (N copies,)
  const Tensor position_ids = on_device(positions);  // (N copies,)
  const Tensor hidden = run_layers(embed(prompts.ids), [&](size_t i, const Tensor& qkv) {
    const Tensor copied = qkv.index_select(0, source_ids);  // (N copies, (H + 2K) D)
    store_keys_values(cache[i], copied, rope_, config_.attention, row_ids, position_ids);
    return packed_attention(qkv, rope_, prompts.starts, config_.attention);  // (N, H D)
  });
  const Tensor last_hidden = hidden.index_select(0, on_device(last));       // (S, d)
  return head_logits(last_hidden, head_weight(), config_.used_vocab_size);  // (S, V)
}

Tensor Model::decode(const Tensor& ids, const Tensor& rows, const Tensor& positions,
                     std::vector<KvCache>& cache) const {
  const int64_t length = positions.max().item<int64_t>() + 1;  // on the CPU: waits for no GPU
  const Tensor row_ids = rows.to(device()), position_ids = positions.to(device());
  const Tensor hidden = run_layers(embed(ids.to(device())), [&](size_t i, const Tensor& qkv) {
    return cached_attention(cache[i], qkv, rope_, config_.attention, row_ids, position_ids, length);
  });
  return head_logits(hidden, head_weight(), config_.used_vocab_size);  // (B, V)
}

PackedTokens PackedTokens::from(const std::vector<std::vector<int64_t>>& sequences,
                                const torch::Device& device, std::vector<int64_t> shared) {
  PackedTokens packed{.ids = {}, .shared = std::move(shared)};
  std::vector<int64_t> ids;
  for (const auto& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    packed.starts.push_back(static_cast<int64_t>(ids.size()));
  }
  packed.ids = torch::tensor(ids, torch::kInt64).to(device);
  return packed;
}

// ---- Construction -------------------------------------------------------------------------------

ModelConfig ModelConfig::from_settings(const Config& settings, int64_t vocab_size) {
  ModelConfig config;
  config.family = std::array{"qwen2", "tiny_zero_roformer_v2",
                             "tiny_zero_gpt"}[static_cast<size_t>(settings.shape)];
  config.vocab_size = config.used_vocab_size = vocab_size;
  config.hidden_size = settings.hidden;
  config.num_layers = settings.layers;
  config.attention = {settings.heads, settings.kv_heads, settings.hidden / settings.heads};
  config.ffn_size = settings.ffn;
  config.max_positions = settings.max_positions;
  config.rope_theta = settings.rope_theta;
  return config;
}

std::vector<Model::Parameter> Model::list_parameters() {
  const auto& [heads, kv_heads, head_dim] = config_.attention;
  const int64_t d = config_.hidden_size, f = config_.ffn_size, vocab = config_.vocab_size;
  const int64_t q = heads * head_dim, kv = kv_heads * head_dim;
  const bool norms = !config_.post_norm(), biases = config_.all_bias();
  std::vector<Parameter> list{{"model.embed_tokens.weight", &embedding_, {vocab, d}}};
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const auto add = [&](bool wanted, const char* name, Tensor& tensor,
                         const std::vector<int64_t>& shape) {
      if (wanted)
        list.push_back({"model.layers." + std::to_string(i) + "." + name, &tensor, shape});
    };
    add(norms, "input_layernorm.weight", layer.input_norm.gain, {d});
    add(biases, "input_layernorm.bias", layer.input_norm.bias, {d});
    add(true, "self_attn.q_proj.weight", layer.qkv.weight, {q, d});
    add(true, "self_attn.k_proj.weight", layer.qkv.weight, {kv, d});
    add(true, "self_attn.v_proj.weight", layer.qkv.weight, {kv, d});
    add(config_.qkv_bias(), "self_attn.q_proj.bias", layer.qkv_bias, {q});
    add(config_.qkv_bias(), "self_attn.k_proj.bias", layer.qkv_bias, {kv});
    add(config_.qkv_bias(), "self_attn.v_proj.bias", layer.qkv_bias, {kv});
    add(config_.qk_norm(), "self_attn.q_norm.weight", layer.query_norm, {head_dim});
    add(config_.qk_norm(), "self_attn.k_norm.weight", layer.key_norm, {head_dim});
    add(true, "self_attn.o_proj.weight", layer.output.weight, {d, q});
    add(biases, "self_attn.o_proj.bias", layer.output_bias, {d});
    add(norms, "post_attention_layernorm.weight", layer.ffn_norm.gain, {d});
    add(biases, "post_attention_layernorm.bias", layer.ffn_norm.bias, {d});
    add(config_.gated(), "mlp.gate_proj.weight", layer.gate_up.weight, {f, d});
    add(true, "mlp.up_proj.weight", layer.gate_up.weight, {f, d});
    add(biases, "mlp.up_proj.bias", layer.up_bias, {f});
    add(true, "mlp.down_proj.weight", layer.down.weight, {d, f});
    add(biases, "mlp.down_proj.bias", layer.down_bias, {d});
  }
  if (norms) list.push_back({"model.norm.weight", &final_norm_.gain, {d}});
  if (biases) list.push_back({"model.norm.bias", &final_norm_.bias, {d}});
  if (head_ != Head::value && !config_.tie_embeddings)
    list.push_back({"lm_head.weight", &lm_head_, {vocab, d}});
  if (head_ != Head::language_model) list.push_back({"value_head.weight", &value_head_, {1, d}});
  return list;
}

/// Tables of (positions, D / 2). Angles in double: in float they are off by 1e-4 at position 1000.
static Rope make_rope(const ModelConfig& config, const torch::Device& device) {
  if (device.is_meta()) return {};
  const auto half = config.attention.head_dim / 2;
  const auto& scaling = config.rope_scaling;
  Tensor frequency = torch::pow(config.rope_theta,
                                -torch::arange(half, torch::kFloat64) / static_cast<double>(half));
  if (scaling.factor != 1) {  // [Llama 3.1]
    // Waves longer than original_positions / low_freq_factor are stretched, those shorter than
    // original_positions / high_freq_factor kept, the ones between in proportion.
    const Tensor waves = frequency * (scaling.original_positions / (2 * std::numbers::pi));
    const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
    const Tensor kept = ((waves - low) / (high - low)).clamp(0, 1);
    frequency = frequency * (kept * (1 - 1 / scaling.factor) + 1 / scaling.factor);
  }
  const Tensor angles = torch::arange(config.max_positions, torch::kFloat64).outer(frequency);
  return {angles.cos().to(device, torch::kFloat32), angles.sin().to(device, torch::kFloat32)};
}

Model::Model(const ModelConfig& config, Head head, torch::Device device)
    : config_(config), head_(head), layers_(config.num_layers), rope_(make_rope(config, device)) {
  parameters_ = torch::empty({0}, torch::device(device));  // says where
  allocate(list_parameters());
}

void Model::allocate(const std::vector<Parameter>& list) {
  int64_t count = 0, offset = 0;
  for (const auto& parameter : list) count += c10::multiply_integers(parameter.shape);
  parameters_ = torch::zeros({count}, parameters_.options());
  named_.clear();
  leaves_.clear();
  gradients_.reset();
  for (size_t i = 0; i < list.size();) {
    Tensor* const tensor = list[i].tensor;
    std::vector<int64_t> shape = list[i].shape;
    shape[0] = -1;  // the rows of all its parts
    const int64_t begin = offset;
    for (; i < list.size() && list[i].tensor == tensor; ++i) {
      const int64_t size = c10::multiply_integers(list[i].shape);
      named_.emplace_back(list[i].name, parameters_.narrow(0, offset, size).view(list[i].shape));
      offset += size;
    }
    *tensor = parameters_.narrow(0, begin, offset - begin).view(shape).detach();
    leaves_.push_back(tensor->set_requires_grad(true));
  }
}

Model::Model(const ModelConfig& config, Head head, uint64_t seed, torch::Device device)
    : Model(config, head, device) {
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::weights));
  const double deviation = 0.02, layers = static_cast<double>(config.num_layers);
  const auto fill = [&](Tensor& weight, double pre_norm_deviation) {
    if (!weight.defined()) return;
    const Tensor start = torch::empty(weight.sizes());
    if (config.post_norm()) {
      // [RoFormerV2]: normal, cut off at two deviations, so that 1 / sqrt(d_in L) is left of them.
      // The embedding is a matrix of d columns, too: as the head its d_in is d, and what goes in
      // through it is normed at once, whatever its scale.
      const double cut = std::erf(std::numbers::sqrt2), d_in = static_cast<double>(weight.size(1));
      start.uniform_(-cut, cut, generator).erfinv_();
      start.mul_(std::numbers::sqrt2 * 1.1368 / std::sqrt(d_in * layers));
    } else {
      start.normal_(0.0, pre_norm_deviation, generator);
    }
    weight.copy_(start);
  };
  const double residual_deviation = deviation / std::sqrt(2.0 * layers);
  fill(embedding_, deviation);
  for (auto& layer : layers_) {
    fill(layer.qkv.weight, deviation);
    fill(layer.output.weight, residual_deviation);
    fill(layer.gate_up.weight, deviation);
    fill(layer.down.weight, residual_deviation);
  }
  fill(lm_head_, deviation);
  for (auto& [name, tensor] : named_)
    if (name.ends_with("norm.weight")) tensor.fill_(1.0);
}

/// The slice of the flat vector of gradients that belongs to a slice of the parameters.
static Tensor gradient_of(const Tensor& slice, const Tensor& gradients) {
  return gradients.narrow(0, slice.storage_offset(), slice.numel()).view(slice.sizes());
}

Tensor& Model::gradients() const {
  if (!gradients_.defined()) {
    gradients_ = torch::zeros_like(parameters_);
    for (const auto& leaf : leaves_) leaf.mutable_grad() = gradient_of(leaf, gradients_);
  }
  return gradients_;
}

Model Model::clone(Head head) const {
  const at::NoGradGuard no_grad;
  Model copy(config_, head, device());
  copy.compute_type_ = compute_type_;
  const NamedTensors& weights = base_ ? base_->named_ : named_;
  const TensorMap own(weights.begin(), weights.end());
  for (auto& [name, tensor] : copy.named_)
    if (own.contains(name)) tensor.copy_(own.at(name));
  Model self = *this;
  const auto from = self.matrices(), to = copy.matrices();
  for (size_t i = 0; i < from.size() && base_; ++i)
    to[i].second->weight.copy_(with_adapter(*from[i].second));
  return copy;
}

Model Model::cast_for_sampling() const {
  Model copy = *this;
  const at::NoGradGuard no_grad;
  for (const auto& [name, matrix] : copy.matrices()) *matrix = {pack_weight(cast(*matrix)), {}};
  for (auto& parameter : copy.list_parameters())
    *parameter.tensor = cast(parameter.tensor->detach());
  if (device().is_cpu()) copy.lm_head_ = head_weight().detach();
  return copy;
}

void Model::limit_vocabulary(int64_t size) {
  if (size > config_.vocab_size)
    throw std::invalid_argument(c10::str("the tokenizer has ", size,
                                         " ids, the model's embedding only ", config_.vocab_size,
                                         " rows: do they belong together?"));
  config_.used_vocab_size = size;
}

// ---- Files --------------------------------------------------------------------------------------

NamedTensors Model::named_gradients() const {
  NamedTensors named = named_;
  for (auto& [name, tensor] : named) tensor = gradient_of(tensor, gradients());
  return named;
}

Model Model::load(const fs::path& directory, Head head, torch::Device device) {
  const at::NoGradGuard no_grad;
  const bool adapted = fs::exists(directory / "lora.json");
  const Lora lora = adapted ? read_lora(directory) : Lora{};
  const auto config = ModelConfig::from_file(directory / "config.json");
  TensorMap stored = adapted ? load_safetensors(directory / "adapters.safetensors")
                             : load_model_tensors(directory);
  const auto fail = [&](const std::string& name, const std::string& what) {
    throw std::runtime_error(directory.string() + ": tensor " + name + what +
                             "; do config.json and weights belong together?");
  };
  const Model shapes(config, head, torch::kMeta);  // without memory
  const Model own_shapes = adapted ? shapes.with_adapters(lora, /*seed=*/0) : shapes;
  const TensorMap wanted(own_shapes.named_.begin(), own_shapes.named_.end());
  for (const auto& [name, tensor] : own_shapes.named_) {
    const auto found = stored.find(name);
    if (found == stored.end() && name == "value_head.weight") continue;
    if (found == stored.end()) fail(name, " is missing from the weights");
    if (found->second.sizes() != tensor.sizes() || !found->second.is_floating_point())
      fail(name, c10::str(" is ", found->second.toString(), found->second.sizes(),
                          ", config.json wants floats ", tensor.sizes()));
  }
  for (const auto& [name, tensor] : stored) {
    const bool spare = name == "value_head.weight" || name.ends_with("rotary_emb.inv_freq") ||
                       (name == "lm_head.weight" && (config.tie_embeddings || head == Head::value));
    if (!wanted.contains(name) && !spare)
      fail(name, " is in the weights, but no part of a " + config.family + " model");
  }
  Model model = adapted ? load(lora.base, head, device).merged().with_adapters(lora, /*seed=*/0)
                        : Model(config, head, device);
  for (auto& [name, tensor] : model.named_) {
    if (!stored.contains(name)) continue;
    tensor.copy_(stored.at(name));
    forget_pages(stored.at(name));  // else the file's pages would be a second copy in memory
    const auto [least, largest] = tensor.aminmax();  // of a NaN both are NaN
    if (!std::isfinite(least.item<double>()) || !std::isfinite(largest.item<double>()))
      throw std::runtime_error(directory.string() + ": tensor " + name + " of the weights holds " +
                               "NaN or infinity; take a checkpoint from before, or an intact copy");
  }
  return model;
}

void Model::save(const fs::path& directory, torch::Dtype dtype) const {
  fs::create_directories(directory);
  config_.to_file(directory / "config.json", dtype);
  if (base_) return save_adapters(directory, lora_, named_);
  save_safetensors(directory / "model.safetensors", named_, dtype);
}

fs::path model_directory(const Config& config) {
  if (config.model.empty())
    throw std::invalid_argument("model is empty, want a model directory: --model DIR");
  const fs::path given = config.model, newest = newest_checkpoint(given);
  for (const auto& place : {given, given / "model", newest.empty() ? given : newest / "model"})
    if (fs::exists(place / "config.json")) return place;
  if (fs::exists(given)) return given;  // whose files will be missed by name
  const auto owner = given.parent_path();
  const bool hub = !owner.empty() && !owner.has_parent_path() && !fs::exists(owner);
  throw std::invalid_argument(
      "model is \"" + config.model + "\", which is no directory, and nothing is downloaded; " +
      (hub ? "the Hugging Face Hub's: hf download " + config.model + " --local-dir " +
                 given.filename().string() + ", then --model " + given.filename().string()
           : "want a directory in Hugging Face layout, a run or a checkpoint: --model DIR"));
}

fs::path settings_of_run(const fs::path& model) {
  const auto run = (model / "").parent_path().parent_path();
  for (const auto& place : {run, run.parent_path().parent_path()})
    if (fs::exists(place / "settings.conf")) return place / "settings.conf";
  return "";
}

LoadedModel load_model(const Config& config) {
  const auto directory = model_directory(config);
  LoadedModel loaded{Tokenizer::from_file(directory / "tokenizer.json"),
                     Model::load(directory, Head::language_model, torch::Device(config.device))};
  loaded.model.limit_vocabulary(loaded.tokenizer.vocab_size());
  loaded.model.set_compute_type(to_dtype(config.compute_type));
  return loaded;
}

SideFiles read_side_files(const fs::path& directory) {
  SideFiles files;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"})
    if (fs::exists(directory / name))
      files[name] = read_text(directory / name, "it belongs to the model");
  return files;
}

void write_side_files(const fs::path& directory, const SideFiles& files) {
  for (const auto& [name, text] : files) write_text(directory / name, text);
}

}  // namespace tiny_zero
