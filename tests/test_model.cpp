// The transformer: sampling and training see one function, files come back bit for bit, and wrong
// ones are named.

#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "tiny_zero/model.h"
#include "tiny_zero/rollout.h"
#include "tiny_zero/settings/config.h"

using namespace tiny_zero;
using torch::Tensor;
namespace fs = std::filesystem;

namespace {

using Sequences = std::vector<std::vector<int64_t>>;
const Sequences kPrompts{{7, 1, 12, 30, 2}, {5}, {9, 9, 4, 33, 21, 0, 17, 8, 6}};

ModelConfig small_config() {
  ModelConfig config;
  config.vocab_size = config.used_vocab_size = 40;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.attention = {4, 2, 16};  // wider than the hidden states
  config.ffn_size = 48;
  config.max_positions = 64;
  config.end_ids = {3};
  return config;
}

ModelConfig config_of(const std::string& family) {
  ModelConfig config = small_config();
  config.family = family;
  return config;
}

/// Weights large enough, and biases and norms uneven enough, for every part of the model to show in
/// the logits.
Model small_model(Head head = Head::language_model, ModelConfig config = small_config()) {
  const at::NoGradGuard no_grad;
  Model model(config, head, /*seed=*/1, torch::kCPU);
  auto generator = at::detail::createCPUGenerator(2);
  model.parameters().add_(
      torch::randn(model.parameters().sizes(), generator, torch::TensorOptions()) * 0.2);
  return model;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.sizes() == b.sizes());
  return (a - b).abs().max().item<double>();
}

Tensor ids_of(const std::vector<int64_t>& ids) { return torch::tensor(ids, torch::kInt64); }

/// Log-probs of all tokens after every position of a packed batch, by the way that training takes.
/// @return (N, V)
Tensor all_log_probs(const Model& model, const Sequences& sequences) {
  const at::NoGradGuard no_grad;
  const auto tokens = PackedTokens::from(sequences, torch::kCPU);
  const int64_t n = tokens.count(), v = model.config().used_vocab_size;
  const Tensor positions = torch::arange(n).repeat_interleave(v),
               targets = torch::arange(v).repeat({n});
  return model.log_probs(model.hidden_states(tokens), positions, targets, 1.0, false)
      .log_probs.view({n, v});
}

fs::path fresh_directory() {
  static int count = 0;
  const fs::path path = fs::temp_directory_path() / ("tiny_zero_model_" + std::to_string(getpid()) +
                                                     "_" + std::to_string(count++));
  fs::create_directories(path);
  return path;
}

/// A saved model that is removed at the end.
struct Saved {
  explicit Saved(const Model& model) { model.save(path); }
  ~Saved() { fs::remove_all(path); }
  Saved(const Saved&) = delete;
  Saved& operator=(const Saved&) = delete;
  void set(const std::string& field, const nlohmann::json& value) const {
    std::ifstream in(path / "config.json");
    auto fields = nlohmann::json::parse(in);
    fields[field] = value;
    if (value.is_discarded()) fields.erase(field);
    std::ofstream(path / "config.json") << fields;
  }
  std::string refusal() const {
    try {
      Model::load(path, Head::language_model, torch::kCPU);
    } catch (const std::invalid_argument& error) {
      return error.what();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "loaded";
  }
  fs::path path = fresh_directory();
};

}  // namespace

TEST_CASE("prefill and cached decoding equal the full forward pass [T23]") {
  auto separate = small_config(), stretched = small_config(), normed = small_config();
  separate.tie_embeddings = false;
  stretched.family = "llama";
  stretched.rope_scaling = {4.0, 1.0, 4.0, 16.0};
  normed.family = "qwen3";
  auto ramp = config_of("tiny_zero_roformer_v2");
  ramp.residual_scale = 0.4;
  for (const auto& config :
       {small_config(), separate, stretched, normed, ramp, config_of("tiny_zero_gpt")}) {
    const at::NoGradGuard no_grad;
    const Model model = small_model(Head::language_model, config);
    auto sequences = kPrompts;
    auto cache = model.make_cache(/*rows=*/3, /*capacity=*/40);
    Tensor logits = model.prefill(PackedTokens::from(sequences, torch::kCPU), cache, /*copies=*/1);
    for (int64_t t = 0; t < 30; ++t) {
      const auto starts = PackedTokens::from(sequences, torch::kCPU).starts;
      const Tensor last = ids_of({starts[1] - 1, starts[2] - 1, starts[3] - 1});
      const Tensor expected = all_log_probs(model, sequences).index_select(0, last);
      CAPTURE(t);
      CHECK(largest_difference(torch::log_softmax(logits, 1), expected) < 1e-4);
      std::vector<int64_t> positions, next;
      for (size_t s = 0; s < 3; ++s) {
        positions.push_back(static_cast<int64_t>(sequences[s].size()));
        next.push_back((7 * t + 11 * static_cast<int64_t>(s)) % 40);
        sequences[s].push_back(next.back());
      }
      logits = model.decode(ids_of(next), ids_of({0, 1, 2}), ids_of(positions), cache);
    }
    CHECK(largest_difference(torch::log_softmax(logits[0], 0), torch::log_softmax(logits[1], 0)) >
          0.1);  // not all alike
  }
}

TEST_CASE("a batch gives each sequence what it gets alone [T23]") {
  const Model model = small_model();
  const Tensor batched = all_log_probs(model, kPrompts);
  std::vector<Tensor> alone;
  for (const auto& prompt : kPrompts) alone.push_back(all_log_probs(model, {prompt}));
  CHECK(largest_difference(batched, torch::cat(alone)) < 1e-5);
}

TEST_CASE("a prefill shared by a group equals one of each member") {
  const at::NoGradGuard no_grad;
  const Model model = small_model();
  auto shared = model.make_cache(6, 16), own = model.make_cache(6, 16);
  const Sequences two{kPrompts[0], kPrompts[2]};
  const Tensor logits = model.prefill(PackedTokens::from(two, torch::kCPU), shared, /*copies=*/3);
  const Sequences six{two[0], two[0], two[0], two[1], two[1], two[1]};
  CHECK(largest_difference(logits.repeat_interleave(3, 0),
                           model.prefill(PackedTokens::from(six, torch::kCPU), own, 1)) < 1e-5);
  const Tensor next = ids_of({1, 2, 3, 4, 5, 6}), positions = ids_of({5, 5, 5, 9, 9, 9});
  const Tensor some = ids_of({1, 3, 4, 5});  // finished responses leave the batch, their rows stay
  const auto step = [&](auto& cache, const Tensor& rows) {
    return model.decode(next.index_select(0, rows), rows, positions.index_select(0, rows), cache);
  };
  CHECK(largest_difference(step(shared, some), step(own, torch::arange(6)).index_select(0, some)) <
        1e-5);
}

TEST_CASE("the gradient of the whole model is the slope of its loss") {
  auto config = small_config();
  SUBCASE("biases on q, k, v") {}
  SUBCASE("norms of q and k") { config.family = "qwen3"; }
  SUBCASE("norms of sums, without weights") {
    config.family = "tiny_zero_roformer_v2";
    config.residual_scale = 0.7;
  }
  SUBCASE("LayerNorm and biases everywhere") { config.family = "tiny_zero_gpt"; }
  Model model = small_model(Head::both, config);
  const auto tokens = PackedTokens::from(kPrompts, torch::kCPU);
  const Tensor positions = ids_of({0, 1, 2, 3, 6, 7, 13}),
               targets = ids_of({1, 12, 30, 2, 9, 4, 3});
  const auto loss = [&] {
    const Tensor hidden = model.hidden_states(tokens);
    const auto scored = model.log_probs(hidden, positions, targets, 0.8, /*with_entropy=*/true);
    return scored.log_probs.sum() + 0.5 * scored.entropies.sum() +
           model.values(hidden, positions).square().sum();
  };
  loss().backward();
  const at::NoGradGuard no_grad;
  const Tensor start = model.parameters().clone(), gradient = model.gradients().clone();
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Tensor direction =
        torch::randn(start.sizes(), at::detail::createCPUGenerator(seed), torch::TensorOptions());
    const double h = 2e-4;
    model.parameters().copy_(start + h * direction);
    const double above = loss().item<double>();
    model.parameters().copy_(start - h * direction);
    const double below = loss().item<double>();
    const double promised = (gradient * direction).sum().item<double>();
    CHECK((above - below) / (2 * h) == doctest::Approx(promised).epsilon(0.02).scale(10));
  }
}

/// The logits of a model of one layer after each token of one sequence, by the formulas of
/// [RoFormerV2] (post-norm) or of GPT-2 with rotary positions: one head, one token after another.
/// @return (T, V)
Tensor logits_by_formula(const Model& model, const std::vector<int64_t>& ids) {
  std::map<std::string, Tensor> w;
  for (const auto& [name, tensor] : model.named_tensors()) w[name] = tensor;
  const ModelConfig& config = model.config();
  const bool post = config.post_norm();
  const auto norm = [&](const Tensor& x, const std::string& name) {
    if (post) return x / (x.square().mean(-1, true) + 1e-6).sqrt();
    const Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-6).sqrt() * w.at(name + ".weight") +
           w.at(name + ".bias");
  };
  const auto product = [&](const Tensor& x, const std::string& name) {
    const Tensor y = x.matmul(w.at(name + ".weight").t());
    return post ? y : y + w.at(name + ".bias");
  };
  const std::string layer = "model.layers.0.";
  const double a = post ? config.residual_scale : 1;
  Tensor h = w.at("model.embed_tokens.weight").index_select(0, ids_of(ids));  // (T, d)
  if (post) h = norm(h, "");
  const Tensor x = post ? h : norm(h, layer + "input_layernorm");
  const Tensor q = product(x, layer + "self_attn.q_proj"),
               k = product(x, layer + "self_attn.k_proj"),
               v = product(x, layer + "self_attn.v_proj");
  // A pair (i, i + 8) of a head of 16 is a complex number, which position t turns by t 1e4^(-i/8).
  const auto turned = [](const Tensor& head, int64_t t) {
    const Tensor angle = t * torch::pow(1e4, -torch::arange(8) / 8.0).to(torch::kFloat32);
    return torch::complex(head.slice(0, 0, 8), head.slice(0, 8)) *
           torch::polar(torch::ones({8}), angle);
  };
  std::vector<Tensor> attended;
  for (int64_t t = 0; t < std::ssize(ids); ++t) {
    for (int64_t head = 0; head < 4; ++head) {  // two query heads to a key head
      const int64_t first = 16 * head, kv = 16 * (head / 2);
      std::vector<Tensor> scores;
      for (int64_t s = 0; s <= t; ++s)
        scores.push_back(torch::real(turned(q[t].slice(0, first, first + 16), t) *
                                     turned(k[s].slice(0, kv, kv + 16), s).conj())
                             .sum() /
                         4);  // sqrt(16)
      const Tensor weights = torch::softmax(torch::stack(scores), 0);
      attended.push_back(weights.matmul(v.slice(0, 0, t + 1).slice(1, kv, kv + 16)));
    }
  }
  const Tensor heads = torch::cat(attended).view({std::ssize(ids), 64});
  h = h + a * product(heads, layer + "self_attn.o_proj");
  if (post) h = norm(h, "");
  const Tensor up =
      product(post ? h : norm(h, layer + "post_attention_layernorm"), layer + "mlp.up_proj");
  const Tensor gelu = up * (1 + torch::erf(up / std::sqrt(2.0))) / 2;
  h = norm(h + a * product(gelu, layer + "mlp.down_proj"), "model.norm");
  return h.matmul(w.at("model.embed_tokens.weight").t());
}

TEST_CASE("RoFormerV2 and the GPT shape compute what their formulas say [RoFormerV2]") {
  const at::NoGradGuard no_grad;
  for (const std::string family : {"tiny_zero_roformer_v2", "tiny_zero_gpt"}) {
    for (const double a : {1.0, 0.3}) {
      auto config = config_of(family);
      config.num_layers = 1;
      Model model = small_model(Head::language_model, config);
      model.set_residual_scale(a);  // GPT has none
      CAPTURE(family);
      CAPTURE(a);
      const Tensor expected = torch::log_softmax(logits_by_formula(model, kPrompts[2]), 1);
      CHECK(largest_difference(all_log_probs(model, {kPrompts[2]}), expected) < 1e-5);
      CHECK(model.config().residual_scale == (family == "tiny_zero_gpt" ? 1 : a));
    }
  }
  // Seven matrices: the embedding, q, k, v, o, up and down; with their biases and three norms 19.
  auto config = config_of("tiny_zero_roformer_v2");
  config.num_layers = 1;
  CHECK(Model(config, Head::language_model, torch::kMeta).named_tensors().size() == 7);
  config.family = "tiny_zero_gpt";
  CHECK(Model(config, Head::language_model, torch::kMeta).named_tensors().size() == 19);
}

TEST_CASE("RoFormerV2 starts from a truncated normal of deviation 1 / sqrt(d_in L) [RoFormerV2]") {
  auto config = config_of("tiny_zero_roformer_v2");
  config.hidden_size = 96;
  config.ffn_size = 160;
  config.num_layers = 4;
  config.vocab_size = config.used_vocab_size = 200;
  const Model model(config, Head::both, /*seed=*/3, torch::kCPU);
  for (const auto& [name, tensor] : model.named_tensors()) {
    CAPTURE(name);
    if (name == "value_head.weight") {
      CHECK(tensor.abs().max().item<double>() == 0);
      continue;
    }
    // d_in is 96 but behind the heads (64) and inside the feed-forward part (160). 1.1368 times as
    // wide before the cut at two deviations, which leaves 0.8796 of it.
    const double d_in = name.ends_with("o_proj.weight")      ? 64
                        : name.ends_with("down_proj.weight") ? 160
                                                             : 96;
    const double wanted = 1 / std::sqrt(d_in * 4);
    CHECK(tensor.std().item<double>() == doctest::Approx(wanted).epsilon(0.03));
    const double largest = tensor.abs().max().item<double>();
    CHECK(largest <= 2 * 1.1369 * wanted);
    CHECK(largest > 2 * 1.08 * wanted);  // of thousands, some are near the cut
  }
}

TEST_CASE("config.json of the own shapes says what they are, holds a, and is refused if not") {
  Model model = small_model(Head::language_model, config_of("tiny_zero_roformer_v2"));
  model.set_residual_scale(0.375);
  const Saved saved(model);
  Model loaded = Model::load(saved.path, Head::language_model, torch::kCPU);
  CHECK(loaded.config().residual_scale == 0.375);
  CHECK(torch::equal(all_log_probs(loaded, kPrompts), all_log_probs(model, kPrompts)));
  CHECK(loaded.clone(Head::value).config().residual_scale == 0.375);
  loaded.set_residual_scale(0.5);  // moves on, and is saved as it is then
  const Saved later(loaded);
  CHECK(Model::load(later.path, Head::value, torch::kCPU).config().residual_scale == 0.5);
  saved.set("residual_scale", 1.5);
  CHECK(saved.refusal().find("residual_scale: found 1.5") != std::string::npos);
  saved.set("residual_scale", 1);
  saved.set("hidden_act", "silu");
  CHECK(saved.refusal().find("hidden_act") != std::string::npos);
  const Saved gpt(small_model(Head::language_model, config_of("tiny_zero_gpt")));
  CHECK(gpt.refusal() == "loaded");
  gpt.set("residual_scale", 0.5);  // it has no such thing
  CHECK(gpt.refusal().find("residual_scale") != std::string::npos);
  const Saved qwen2(small_model());
  qwen2.set("layer_norm_eps", 1e-5);
  CHECK(qwen2.refusal().find("layer_norm_eps") != std::string::npos);
}

// ---- Adapters -----------------------------------------------------------------------------------

namespace {

constexpr double kAlpha = 6;

/// Adapters upon a saved model, far enough from zero to show.
Model adapted_model(const Saved& base, int64_t rank = 3) {
  const at::NoGradGuard no_grad;
  Model model = Model::load(base.path, Head::language_model, torch::kCPU)
                    .merged()
                    .with_adapters({rank, kAlpha, base.path, checksum_of_weights(base.path)}, 5);
  auto generator = at::detail::createCPUGenerator(4);
  model.parameters().add_(
      torch::randn(model.parameters().sizes(), generator, torch::TensorOptions()) * 0.2);
  return model;
}

}  // namespace

TEST_CASE("LowRank adds scale B A, worked by hand [LoRA]") {
  const Tensor weight = torch::tensor({{1.0, 2.0, 3.0}, {4.0, 5.0, 6.0}});
  // B A = (2, -1)^T (1, 0, 3) = (2, 0, 6; -1, 0, -3); alpha 6 over rank 1... here scale 0.5.
  const LowRank adapter{torch::tensor({{1.0, 0.0, 3.0}}), torch::tensor({{2.0}, {-1.0}})};
  CHECK(torch::equal(adapter.added_to(weight, 0.5),
                     torch::tensor({{2.0, 2.0, 6.0}, {3.5, 5.0, 4.5}})));
  CHECK(torch::equal(LowRank{}.added_to(weight, 0.5), weight));
  CHECK(Lora{8, 32, "", ""}.scale() == 4.0);
}

TEST_CASE("new adapters change nothing, share the base's memory, and A is uniform [LoRA]") {
  const at::NoGradGuard no_grad;
  Model base = small_model();
  const Model model = base.with_adapters({4, kAlpha, "", ""}, /*seed=*/1);
  CHECK(torch::equal(all_log_probs(model, kPrompts), all_log_probs(base, kPrompts)));
  CHECK(model.without_adapters().parameters().data_ptr() == base.parameters().data_ptr());
  // Two layers of four matrices: qkv (128, 32), o (32, 64), gate and up (96, 32), down (32, 48).
  CHECK(model.named_tensors().size() == 16);
  CHECK(model.parameters().numel() == 2 * 4 * ((128 + 32) + (32 + 64) + (96 + 32) + (32 + 48)));
  for (const auto& [name, tensor] : model.named_tensors()) {
    CAPTURE(name);
    if (name.ends_with("lora_B.weight")) {
      CHECK(tensor.abs().max().item<double>() == 0);
      continue;
    }
    const double bound = 1 / std::sqrt(static_cast<double>(tensor.size(1)));
    CHECK(tensor.abs().max().item<double>() <= bound);
    CHECK(tensor.std().item<double>() ==
          doctest::Approx(bound / std::sqrt(3.0)).epsilon(0.15));  // of a uniform distribution
  }
  const auto again = base.with_adapters({4, kAlpha, "", ""}, 1);
  CHECK(torch::equal(again.parameters(), model.parameters()));
  CHECK(!torch::equal(base.with_adapters({4, kAlpha, "", ""}, 2).parameters(), model.parameters()));
  CHECK_THROWS_WITH_AS(base.with_adapters({33, kAlpha, "", ""}, 1),
                       doctest::Contains("qkv_proj is (128, 32), want at most the smaller"),
                       std::invalid_argument);
}

TEST_CASE("with adapters a model is its base with scale B A in every matrix [LoRA]") {
  const Saved saved(small_model());
  Model model = adapted_model(saved);
  const Model base = Model::load(saved.path, Head::language_model, torch::kCPU);
  {
    const at::NoGradGuard no_grad;
    // By the file's names: q, k and v are rows of one product, and so are gate and up.
    Model by_hand = base.clone(Head::language_model);
    std::map<std::string, Tensor> adapters, weights;
    for (const auto& [name, tensor] : model.named_tensors()) adapters[name] = tensor;
    for (const auto& [name, tensor] : by_hand.named_tensors()) weights[name] = tensor;
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      const std::vector<std::pair<std::string, std::vector<std::string>>> matrices{
          {"self_attn.qkv_proj", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
          {"self_attn.o_proj", {"self_attn.o_proj"}},
          {"mlp.gate_up_proj", {"mlp.gate_proj", "mlp.up_proj"}},
          {"mlp.down_proj", {"mlp.down_proj"}}};
      for (const auto& [fused, parts] : matrices) {
        const Tensor product = adapters.at(layer + fused + ".lora_B.weight")
                                   .matmul(adapters.at(layer + fused + ".lora_A.weight"));
        int64_t row = 0;
        for (const auto& part : parts) {
          Tensor weight = weights.at(layer + part + ".weight");
          weight.add_(2 * product.slice(0, row, row + weight.size(0)));  // alpha 6 / rank 3
          row += weight.size(0);
        }
      }
    }
    const Tensor expected = all_log_probs(by_hand, kPrompts);
    CHECK(largest_difference(all_log_probs(model, kPrompts), expected) < 1e-5);
    CHECK(largest_difference(all_log_probs(base, kPrompts), expected) > 0.1);
    CHECK(largest_difference(all_log_probs(model.merged(), kPrompts), expected) < 1e-5);
    CHECK(torch::equal(all_log_probs(model.without_adapters(), kPrompts),
                       all_log_probs(base, kPrompts)));
    // Sampling has the adapters merged in once, training adds them in each pass: one function.
    CHECK(torch::equal(all_log_probs(model.cast_for_sampling(), kPrompts),
                       all_log_probs(model, kPrompts)));
    CHECK(torch::equal(base.parameters(), model.without_adapters().parameters()));
  }
  // The gradient is that of the adapters, and it is the slope of the loss.
  const auto tokens = PackedTokens::from(kPrompts, torch::kCPU);
  const auto loss = [&] {
    return model
        .log_probs(model.hidden_states(tokens), ids_of({0, 1, 2, 3, 6}), ids_of({1, 12, 30, 2, 9}),
                   1.0, false)
        .log_probs.sum();
  };
  loss().backward();
  CHECK(model.gradients().sizes() == model.parameters().sizes());
  const at::NoGradGuard no_grad;
  const Tensor start = model.parameters().clone();
  const Tensor direction =
      torch::randn(start.sizes(), at::detail::createCPUGenerator(7), torch::TensorOptions());
  const double h = 2e-4;
  model.parameters().copy_(start + h * direction);
  const double above = loss().item<double>();
  model.parameters().copy_(start - h * direction);
  const double below = loss().item<double>();
  CHECK((above - below) / (2 * h) ==
        doctest::Approx((model.gradients() * direction).sum().item<double>())
            .epsilon(0.02)
            .scale(10));
}

TEST_CASE("adapters are saved alone, come back with their base, and know another [LoRA]") {
  const Saved base(small_model());
  const Model model = adapted_model(base);
  const Saved saved(model);
  CHECK(!fs::exists(saved.path / "model.safetensors"));
  const Model loaded = Model::load(saved.path, Head::language_model, torch::kCPU);
  CHECK(torch::equal(loaded.parameters(), model.parameters()));
  CHECK(torch::equal(all_log_probs(loaded, kPrompts), all_log_probs(model, kPrompts)));
  {  // the base of one run may itself hold adapters
    const Saved second(adapted_model(saved, 2));
    const Model upon = Model::load(second.path, Head::language_model, torch::kCPU);
    CHECK(torch::equal(upon.without_adapters().parameters(), model.merged().parameters()));
  }
  auto stored = load_safetensors(saved.path / "adapters.safetensors");
  stored.erase("model.layers.1.mlp.down_proj.lora_A.weight");
  save_safetensors(saved.path / "changed", {stored.begin(), stored.end()});
  fs::rename(saved.path / "changed", saved.path / "adapters.safetensors");
  CHECK(saved.refusal().find("model.layers.1.mlp.down_proj.lora_A.weight is missing") !=
        std::string::npos);
  small_model(Head::language_model, config_of("llama")).save(base.path);
  CHECK(saved.refusal().find("not those that the adapters were trained on") != std::string::npos);
  CHECK(saved.refusal().find(base.path.string()) != std::string::npos);
  fs::remove_all(base.path);
  CHECK(saved.refusal().find("where no model is") != std::string::npos);
}

TEST_CASE(
    "a saved model comes back bit for bit; a value head that the file lacks starts at zero [T19]") {
  auto config = small_config();
  config.tie_embeddings = false;
  config.rope_theta = 5e5;
  config.norm_eps = 1e-5;
  config.end_ids = {3, 17};
  const Model model = small_model(Head::language_model, config);
  const Saved saved(model);
  const Model loaded = Model::load(saved.path, Head::language_model, torch::kCPU);
  CHECK(torch::equal(loaded.parameters(), model.parameters()));
  CHECK(loaded.config().end_ids == config.end_ids);
  CHECK(torch::equal(all_log_probs(loaded, kPrompts),
                     all_log_probs(model, kPrompts)));  // so theta and eps came back too
  const Model both = Model::load(saved.path, Head::both, torch::kCPU);
  CHECK(both.value_head().abs().sum().item<double>() == 0.0);
  CHECK(torch::equal(all_log_probs(both, kPrompts), all_log_probs(model, kPrompts)));
  const Model critic = small_model(Head::both);
  const Saved saved_critic(critic);
  CHECK(torch::equal(Model::load(saved_critic.path, Head::value, torch::kCPU).value_head(),
                     critic.value_head()));
}

TEST_CASE("a clone computes the same and shares no memory") {
  const at::NoGradGuard no_grad;
  Model model = small_model();
  model.limit_vocabulary(33);
  model.set_compute_type(torch::kBFloat16);
  Model copy = model.clone(Head::language_model);
  CHECK((copy.compute_type() == torch::kBFloat16));
  CHECK(torch::equal(copy.parameters(), model.parameters()));
  const Tensor before = all_log_probs(model, kPrompts);
  CHECK(torch::equal(all_log_probs(copy, kPrompts), before));
  copy.parameters().add_(1.0);
  CHECK(torch::equal(all_log_probs(model, kPrompts), before));
  const Model critic = model.clone(Head::value);
  const auto tokens = PackedTokens::from(kPrompts, torch::kCPU);
  CHECK(torch::equal(critic.hidden_states(tokens), model.hidden_states(tokens)));
  CHECK(critic.value_head().abs().sum().item<double>() == 0.0);
}

TEST_CASE("padded rows of the vocabulary are neither scored nor sampled [T22]") {
  const at::NoGradGuard no_grad;
  Model model = small_model();
  const auto config = model.config();
  model.parameters()
      .slice(0, 38 * config.hidden_size, 40 * config.hidden_size)
      .fill_(50.0);                                                                // ids 38 and 39
  CHECK(all_log_probs(model, kPrompts).slice(1, 38).max().item<double>() > -0.7);  // they would win
  model.limit_vocabulary(38);
  const Tensor log_probs = all_log_probs(model, kPrompts);
  CHECK(largest_difference(log_probs.exp().sum(1), torch::ones({15})) < 1e-5);
  auto cache = model.make_cache(3, 16);
  CHECK(model.prefill(PackedTokens::from(kPrompts, torch::kCPU), cache, 1).size(1) == 38);
  CHECK(model.decode(ids_of({1}), ids_of({0}), ids_of({5}), cache).size(1) == 38);
  CHECK_THROWS_WITH_AS(model.limit_vocabulary(41), doctest::Contains("41"), std::invalid_argument);
}

TEST_CASE("a model directory that does not fit is refused with the name of what does not fit") {
  const Saved saved(small_model());
  const auto contains = [&](const std::string& part) {
    const std::string message = saved.refusal();
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
  };
  const nlohmann::json removed(nlohmann::json::value_t::discarded);
  const std::vector<std::tuple<std::string, nlohmann::json, nlohmann::json, std::string>> cases{
      {"model_type", "gpt2", "qwen2", "model_type"},
      {"model_type", "llama", "qwen2", "supported is [\"LlamaForCausalLM\"]"},
      {"architectures", {"Qwen2ForSequenceClassification"}, {"Qwen2ForCausalLM"}, "architectures"},
      {"attention_bias", true, removed, "attention_bias"},
      {"layer_types", {"full_attention", "sliding_attention"}, removed, "sliding_attention"},
      {"logit_softcapping", 30, removed, "logit_softcapping"},  // an unknown field
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}}, nullptr, "low_freq_factor"},
      {"rope_theta", -1, 10000.0, "rope"},
      {"rms_norm_eps", -1, 1e-6, "rms_norm_eps: found -1, want a number above 0 and below 1"},
      {"rms_norm_eps", 0, 1e-6, "rms_norm_eps: found 0"},
      {"rms_norm_eps", 1e300, 1e-6, "rms_norm_eps"},
      {"rms_norm_eps", "1e-6", 1e-6, "rms_norm_eps"},
      {"rope_scaling",
       {{"rope_type", "llama3"},
        {"factor", 8},
        {"low_freq_factor", -1},
        {"high_freq_factor", 4},
        {"original_max_position_embeddings", 64}},
       nullptr,
       "rope_scaling"},
      {"vocab_size", 1e18, 40, "vocab_size"},  // no table is made of a size before it is checked
      {"hidden_size", 1 << 23, 32, "model.embed_tokens.weight"},
      {"num_hidden_layers", 1000000, 2, "num_hidden_layers"},
      {"max_position_embeddings", 1e12, 64, "max_position_embeddings"},
      {"num_attention_heads", 2.5, 4, "num_attention_heads"},
      {"hidden_act", "gelu", "silu", "hidden_act"},
      {"rope_scaling", {{"type", "yarn"}}, nullptr, "rope_scaling"},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}, removed, "rope_parameters"},
      {"use_sliding_window", true, false, "use_sliding_window"},
      {"hidden_size", removed, 32, "hidden_size"},
      {"hidden_size", "wide", 32, "config.json"},
      {"num_key_value_heads", 3, 2, "config.json"},
      {"vocab_size", 41, 40, "model.embed_tokens.weight"},
      {"intermediate_size", 64, 48, "model.layers.0.mlp.gate_proj.weight"},
      {"num_hidden_layers", 3, 2, "model.layers.2.input_layernorm.weight"},
      {"num_hidden_layers", 1, 2, "model.layers.1."},
      {"tie_word_embeddings", false, true, "lm_head.weight"}};
  for (const auto& [field, wrong, right, part] : cases) {
    CAPTURE(field);
    saved.set(field, wrong);
    contains(part);
    saved.set(field, right);
  }
  // As transformers 5 writes it.
  saved.set("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}});
  saved.set("rope_theta", removed);
  CHECK(Model::load(saved.path, Head::value, torch::kCPU).config().rope_theta == 5e5);
  std::ofstream(saved.path / "config.json") << "{";
  contains("config.json: not JSON");
  fs::remove(saved.path / "config.json");
  contains("config.json cannot be opened");
}

TEST_CASE("a model file with weights that are not finite is refused with the tensor's name") {
  const Saved saved(small_model());
  const fs::path file = saved.path / "model.safetensors";
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (const float wrong : {NAN, INFINITY, -INFINITY}) {
    NamedTensors tensors;
    for (const auto& [key, tensor] : load_safetensors(file))
      tensors.emplace_back(key, tensor.clone());
    const auto found = std::ranges::find(tensors, name, [](const auto& t) { return t.first; });
    REQUIRE(found != tensors.end());
    const float right = found->second[3][5].item<float>();
    found->second[3][5] = wrong;
    save_safetensors(file, tensors);
    const std::string message = saved.refusal();
    CAPTURE(message);
    CHECK(message.find(name) != std::string::npos);
    CHECK(message.find(saved.path.string()) != std::string::npos);
    found->second[3][5] = right;
    save_safetensors(file, tensors);
  }
  CHECK(saved.refusal() == "loaded");
}

// The reference values are stored by check_transformers.py --write.
TEST_CASE("logits and greedy continuations are those of transformers") {
  const at::NoGradGuard no_grad;
  std::vector<fs::path> folders;
  if (const char* real = std::getenv("REFERENCE_MODEL")) {
    folders = {real};
  } else {
    for (const auto& entry : fs::directory_iterator(fs::path(TEST_DATA_DIR) / "models"))
      folders.push_back(entry.path());
    REQUIRE(folders.size() == 6);
  }
  for (const auto& folder : folders) {
    CAPTURE(folder);
    const Model model = Model::load(folder, Head::language_model, torch::kCPU);
    const auto reference = load_safetensors(folder / "reference.safetensors");
    const Tensor ids = reference.at("ids"), starts = reference.at("starts"),
                 wanted = reference.at("logits");
    Sequences prompts;
    for (int64_t i = 0; i + 1 < starts.size(0); ++i) {
      const Tensor prompt = ids.slice(0, starts[i].item<int64_t>(), starts[i + 1].item<int64_t>());
      prompts.emplace_back(prompt.data_ptr<int64_t>(), prompt.data_ptr<int64_t>() + prompt.numel());
    }
    Sequences prefixes;  // a prefill gives the logits after the last token
    for (int64_t i = 0; i < 3; ++i) {
      for (size_t length = 1; length <= prompts[i].size(); ++length)
        prefixes.emplace_back(prompts[i].begin(),
                              prompts[i].begin() + static_cast<int64_t>(length));
    }
    auto cache = model.make_cache(static_cast<int64_t>(prefixes.size()), /*capacity=*/64);
    const Tensor logits =
        model.prefill(PackedTokens::from(prefixes, torch::kCPU), cache, /*copies=*/1);
    const double spread = (wanted.max() - wanted.min()).item<double>();
    const double difference = largest_difference(logits, wanted) / spread;
    CHECK(difference < 2e-4);
    const Rollout rollout = Sampler(model, {/*temperature=*/0.0, 1.0, /*max_response_tokens=*/64})
                                .sample(prompts, 1, 0);
    const Tensor expected = reference.at("continuations");
    int64_t same = 0;
    for (int64_t i = 0; i < rollout.size(); ++i) {
      const int64_t length = rollout.lengths[i];
      CHECK((length == 64 || rollout.finished[i]));
      same += torch::equal(rollout.response_ids[i].slice(0, 0, length),
                           expected[i].slice(0, 0, length));
    }
    CHECK(same == 20);
    MESSAGE(folder.filename().string(), ": logits differ by ", difference, " of their spread, ",
            same, " of 20 greedy continuations are the same");
  }
}

TEST_CASE(
    "weights that are missing, unknown, not floats or in the wrong shard are refused by name") {
  const Model model = small_model();
  const Saved saved(model);
  const auto whole = load_safetensors(saved.path / "model.safetensors");
  const auto refusal = [&](const auto& change) {
    auto tensors = whole;
    change(tensors);
    save_safetensors(saved.path / "changed", NamedTensors(tensors.begin(), tensors.end()));
    fs::rename(saved.path / "changed",
               saved.path / "model.safetensors");  // `whole` still maps the old one
    return saved.refusal();
  };
  const auto has = [](const std::string& text, const std::string& part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  has(refusal([](auto& t) { t.erase("model.norm.weight"); }),
      "tensor model.norm.weight is missing");
  has(refusal([](auto& t) { t["model.layers.2.x"] = torch::ones({1}); }),
      "model.layers.2.x is in the weights");
  has(refusal([](auto& t) { t["model.norm.weight"] = torch::ones({32}, torch::kInt64); }),
      "model.norm.weight is");
  CHECK(refusal([](auto& t) {
          t["lm_head.weight"] = torch::ones({40, 32});
        }) == "loaded");  // tied: not used
  CHECK(refusal([](auto&) {}) == "loaded");

  auto first = whole, second = whole;
  nlohmann::json places;
  for (const auto& [name, tensor] : whole) {
    const bool early = name < "model.layers.1";
    (early ? second : first).erase(name);
    places[name] = early ? "a.safetensors" : "b.safetensors";
  }
  save_safetensors(saved.path / "a.safetensors", {first.begin(), first.end()});
  save_safetensors(saved.path / "b.safetensors", {second.begin(), second.end()});
  fs::remove(saved.path / "model.safetensors");
  const auto with_index = [&](const nlohmann::json& index) {
    std::ofstream(saved.path / "model.safetensors.index.json") << index;
    return saved.refusal();
  };
  CHECK(with_index({{"weight_map", places}}) == "loaded");
  CHECK(torch::equal(Model::load(saved.path, Head::language_model, torch::kCPU).parameters(),
                     model.parameters()));
  has(with_index({{"weights", places}}), "weight_map");
  has(with_index({{"weight_map", {{"x", 1}}}}), "tensor x is in 1");
  has(with_index({{"weight_map", {{"x", "../a.safetensors"}}}}), "../a.safetensors");
  auto moved = places;
  moved["model.norm.weight"] = "a.safetensors";
  has(with_index({{"weight_map", moved}}), "model.norm.weight is not in a.safetensors");
  moved.erase("model.norm.weight");
  has(with_index({{"weight_map", moved}}), "model.norm.weight, which is in b.safetensors");
  moved["model.norm.weight"] = "c.safetensors";
  has(with_index({{"weight_map", moved}}), "c.safetensors: cannot be opened");
  std::ofstream(saved.path / "model.safetensors.index.json") << "{\"weight_map\": {";
  has(saved.refusal(), "index.json: not JSON");
}

TEST_CASE("end tokens are those of config.json and of generation_config.json") {
  const Saved saved(small_model());
  std::ofstream(saved.path / "generation_config.json") << R"({"eos_token_id": [7, 3]})";
  CHECK(ModelConfig::from_file(saved.path / "config.json").end_ids == std::vector<int64_t>{3, 7});
  std::ofstream(saved.path / "generation_config.json") << "[";
  CHECK(saved.refusal().find("generation_config.json") != std::string::npos);
}

TEST_CASE(
    "weights stored as bfloat16 are widened, and bfloat16 products stay near float32's [T12]") {
  Model model = small_model();
  const Saved saved(model);
  std::vector<std::pair<std::string, Tensor>> narrowed;
  for (const auto& [name, tensor] : load_safetensors(saved.path / "model.safetensors")) {
    narrowed.emplace_back(name, tensor.to(torch::kBFloat16));
  }
  save_safetensors(saved.path / "model.safetensors", narrowed);
  const Model loaded = Model::load(saved.path, Head::language_model, torch::kCPU);
  CHECK(torch::equal(loaded.parameters(),
                     model.parameters().to(torch::kBFloat16).to(torch::kFloat32)));

  const Tensor exact = all_log_probs(model, kPrompts);
  model.set_compute_type(torch::kBFloat16);
  const Tensor rounded = all_log_probs(model, kPrompts);
  CHECK(torch::isfinite(rounded).all().item<bool>());
  CHECK((rounded.scalar_type() == torch::kFloat32));
  CHECK(!torch::equal(rounded, exact));
  CHECK((rounded - exact).abs().mean().item<double>() < 0.1);
  const Tensor hidden = model.hidden_states(PackedTokens::from(kPrompts, torch::kCPU));
  model.log_probs(hidden, ids_of({4}), ids_of({3}), 1.0, false).log_probs.sum().backward();
  CHECK((model.parameters().scalar_type() == torch::kFloat32));
  CHECK(torch::isfinite(model.gradients()).all().item<bool>());
  CHECK(model.gradients().abs().sum().item<double>() > 0);
}

TEST_CASE("values are the value head's product with the hidden states of the given rows") {
  const at::NoGradGuard no_grad;
  const Model critic = small_model(Head::value);
  critic.value_head().fill_(0.5);
  const Tensor hidden = critic.hidden_states(PackedTokens::from(kPrompts, torch::kCPU));
  const Tensor values = critic.values(hidden, ids_of({14, 0}));
  CHECK(largest_difference(values, torch::stack({hidden[14].sum() / 2, hidden[0].sum() / 2})) <
        1e-5);
  CHECK_THROWS_AS(small_model().values(hidden, ids_of({0})), c10::Error);
}
