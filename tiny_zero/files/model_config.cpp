#include "tiny_zero/files/model_config.h"

#include <algorithm>
#include <map>
#include <set>

#include "tiny_zero/files/json.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {
namespace {

using nlohmann::json;

const std::map<std::string, std::string> kArchitectures{
    {"qwen2", "Qwen2ForCausalLM"},
    {"qwen3", "Qwen3ForCausalLM"},
    {"llama", "LlamaForCausalLM"},
    {"tiny_zero_roformer_v2", "TinyZeroRoFormerV2ForCausalLM"},
    {"tiny_zero_gpt", "TinyZeroGPTForCausalLM"}};

/// The fields whose name or value depends on the family.
const char* eps_field(const ModelConfig& config) {
  return config.all_bias() ? "layer_norm_eps" : "rms_norm_eps";
}
const char* activation(const ModelConfig& config) { return config.gated() ? "silu" : "gelu"; }

/// Fields that would change the computation, with the only value that the model supports.
const std::map<std::string, json> kOnlyValues{{"use_sliding_window", false},
                                              {"attention_bias", false},
                                              {"mlp_bias", false},
                                              {"rope_interleaved", false},
                                              {"partial_rotary_factor", 1.0},
                                              {"use_mrope", false},
                                              {"is_encoder_decoder", false},
                                              {"pretraining_tp", 1},
                                              {"quantization_config", nullptr}};

/// Fields that may stand in the file.
const std::set<std::string> kKnown{
    // read below
    "model_type", "architectures", "vocab_size", "hidden_size", "num_hidden_layers",
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "layer_types",
    // without effect: dropout is never applied [T31], windows count only with use_sliding_window
    "attention_dropout", "dtype", "initializer_range", "is_llama_config", "max_window_layers",
    "output_attentions", "output_hidden_states", "return_dict", "sliding_window", "torch_dtype",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "use_cache"};

// The bound keeps a broken file from asking for absurd amounts of memory.
constexpr int64_t kMaxSize = 1 << 24;

void check_supported(const Field& fields, ModelConfig& config) {
  const Field family = fields["model_type"];
  const auto architecture = kArchitectures.find(family.text());
  if (architecture == kArchitectures.end())
    family.fail("qwen2, qwen3 or llama, or a model that pretrain made");
  config.family = family.text();
  const json wanted = json::array({architecture->second}),
             found = fields.value.value("architectures", wanted);
  if (found != wanted)
    family.fail("what fits architectures " + found.dump() + "; supported is " + wanted.dump());
  for (const auto& [name, field] : fields.members()) {
    if (kOnlyValues.contains(name)) {
      field.must_be(kOnlyValues.at(name));
    } else if (name == "hidden_act") {
      field.must_be(activation(config));
    } else if (name == eps_field(config) || (name == "residual_scale" && config.post_norm())) {
      continue;
    } else if (!kKnown.contains(name) && !name.starts_with('_') && !name.ends_with("_token_id")) {
      field.fail(
          "no such field: this program does not know it; remove it if it does not change what the "
          "model computes");
    }
  }
  for (const Field& type : fields["layer_types"].list()) type.must_be("full_attention");
}

void read_rope(const Field& fields, ModelConfig& config) {
  // Newer files keep everything in rope_parameters, older ones rope_theta at the top.
  const bool newer = fields.value.contains("rope_parameters");
  const Field found = fields[newer ? "rope_parameters" : "rope_scaling"];
  static const json none = json::object();
  const Field rope = found.value.is_null() ? Field{none, found.path} : found;
  const Field type = rope[rope.value.contains("rope_type") ? "rope_type" : "type"];
  const bool llama3 = type.value == "llama3";
  if (!llama3 && !type.value.is_null() && type.value != "default")
    type.fail("\"default\" or \"llama3\"");
  config.rope_theta = rope["rope_theta"].number(fields["rope_theta"].number(config.rope_theta));
  RopeScaling& scaling = config.rope_scaling;
  if (llama3) {
    scaling = {rope["factor"].number(), rope["low_freq_factor"].number(),
               rope["high_freq_factor"].number(),
               rope["original_max_position_embeddings"].number()};
  }
  size_t others = rope.value.size();
  for (const char* name : {"rope_theta", "rope_type", "type"}) others -= rope.value.contains(name);
  const bool possible = config.rope_theta >= 1 && scaling.factor >= 1 &&
                        scaling.high_freq_factor > scaling.low_freq_factor &&
                        scaling.low_freq_factor > 0 && scaling.original_positions >= 1;
  if (!possible || others != (llama3 ? 4 : 0))
    rope.fail("a rope_theta of 1 or more, and only with \"llama3\" its four other numbers");
}

/// Appends the ids of eos_token_id, which is a number, a list or absent.
void add_end_ids(const Field& fields, std::vector<int64_t>& ids) {
  for (const Field& end : fields["eos_token_id"].list()) {
    const int64_t id = end.integer(0, kMaxSize);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

}  // namespace

ModelConfig ModelConfig::from_file(const std::filesystem::path& path) {
  const Json source = read_json(path, "--model wants a directory that holds it");
  const auto beside = path.parent_path() / "generation_config.json";
  const json config_json = source,
             generation = std::filesystem::exists(beside) ? read_json(beside, "") : Json::object();
  const Field fields{config_json, path.string() + ": "};
  ModelConfig config;
  check_supported(fields, config);
  config.source = source.dump(2);
  config.vocab_size = config.used_vocab_size = fields["vocab_size"].integer(1, kMaxSize);
  config.hidden_size = fields["hidden_size"].integer(1, kMaxSize);
  config.num_layers = fields["num_hidden_layers"].integer(1, 1000);
  config.ffn_size = fields["intermediate_size"].integer(1, kMaxSize);
  auto& [heads, kv_heads, head_dim] = config.attention;
  heads = fields["num_attention_heads"].integer(1, kMaxSize);
  const Field kv = fields["num_key_value_heads"], dim = fields["head_dim"];
  kv_heads = kv.value.is_null() ? heads : kv.integer(1, kMaxSize);
  head_dim = dim.value.is_null() ? config.hidden_size / heads : dim.integer(1, kMaxSize);
  if (heads % kv_heads != 0) kv.fail("a divisor of num_attention_heads");
  if (head_dim < 1 || head_dim % 2 != 0)
    dim.fail("an even number, by default hidden_size / num_attention_heads");
  config.max_positions = fields["max_position_embeddings"].integer(1, 1 << 20);
  read_rope(fields, config);
  const Field eps = fields[eps_field(config)], scale = fields["residual_scale"];
  config.norm_eps = eps.number(config.norm_eps);
  if (config.norm_eps <= 0 || config.norm_eps >= 1) eps.fail("a number above 0 and below 1");
  config.residual_scale = scale.number(config.residual_scale);
  if (config.residual_scale < 0 || config.residual_scale > 1) scale.fail("a number from 0 to 1");
  config.tie_embeddings = fields["tie_word_embeddings"].flag(false);
  add_end_ids(fields, config.end_ids);
  add_end_ids({generation, beside.string() + ": "}, config.end_ids);
  return config;
}

void ModelConfig::to_file(const std::filesystem::path& path, torch::Dtype dtype) const {
  Json fields = source.empty()
                    ? Json{{"architectures", {kArchitectures.at(family)}},
                           {"model_type", family},
                           {"hidden_act", activation(*this)},
                           {"hidden_size", hidden_size},
                           {"intermediate_size", ffn_size},
                           {"max_position_embeddings", max_positions},
                           {"num_attention_heads", attention.num_heads},
                           {"num_hidden_layers", num_layers},
                           {"num_key_value_heads", attention.num_kv_heads},
                           {"head_dim", attention.head_dim},
                           {eps_field(*this), norm_eps},
                           {"rope_theta", rope_theta},
                           {"tie_word_embeddings", tie_embeddings},
                           {"eos_token_id", end_ids.size() == 1 ? Json(end_ids[0]) : Json(end_ids)},
                           {"vocab_size", vocab_size}}
                    : Json::parse(source);
  if (post_norm()) fields["residual_scale"] = residual_scale;
  fields[fields.contains("dtype") ? "dtype" : "torch_dtype"] =
      dtype == torch::kBFloat16 ? "bfloat16" : "float32";
  write_text(path, fields.dump(2) + "\n");
}

}  // namespace tiny_zero
