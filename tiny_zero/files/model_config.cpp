#include "tiny_zero/files/model_config.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include "tiny_zero/files/json.h"

namespace tiny_zero {
namespace {

const std::map<std::string, std::string> kArchitectures{
    {"qwen2", "Qwen2ForCausalLM"}, {"qwen3", "Qwen3ForCausalLM"}, {"llama", "LlamaForCausalLM"}};

/// Fields that would change the computation, with the only value that the model supports.
const std::map<std::string, Json> kOnlyValues{
    {"hidden_act", "silu"},      {"use_sliding_window", false},
    {"attention_bias", false},   {"mlp_bias", false},
    {"rope_interleaved", false}, {"partial_rotary_factor", 1.0},
    {"use_mrope", false},        {"is_encoder_decoder", false},
    {"pretraining_tp", 1},       {"quantization_config", nullptr}};

/// Fields that may stand in the file.
const std::set<std::string> kKnown{
    // read below
    "model_type", "architectures", "vocab_size", "hidden_size", "num_hidden_layers",
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps",
    "tie_word_embeddings", "layer_types",
    // without effect: dropout is never applied [T31], windows count only with use_sliding_window
    "attention_dropout", "dtype", "initializer_range", "is_llama_config", "max_window_layers",
    "output_attentions", "output_hidden_states", "return_dict", "sliding_window", "torch_dtype",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "use_cache"};

/// from_file() puts the path in front.
[[noreturn]] void fail(const std::string& name, const Json& found, const std::string& wanted) {
  throw std::invalid_argument(name + " is " + found.dump() + ", " + wanted);
}

/// The bound keeps a broken file from asking for absurd amounts of memory.
int64_t read_size(const std::string& name, const Json& value, int64_t most = 1 << 24) {
  if (!value.is_number_integer() || value < 1 || value > most)
    fail(name, value, "want a whole number from 1 to " + std::to_string(most));
  return value.get<int64_t>();
}

void check_supported(const Json& fields) {
  const auto architecture = kArchitectures.find(fields.value("model_type", ""));
  if (architecture == kArchitectures.end())
    fail("model_type", fields.value("model_type", ""), "supported are qwen2, qwen3 and llama");
  const Json architectures = Json::array({architecture->second});
  if (fields.value("architectures", architectures) != architectures)
    fail("architectures", fields["architectures"], "supported is " + architectures.dump());
  for (const auto& [name, value] : fields.items()) {
    const auto only = kOnlyValues.find(name);
    if (only != kOnlyValues.end() && value != only->second)
      fail(name, value, "supported is " + only->second.dump());
    const bool known = only != kOnlyValues.end() || kKnown.contains(name) ||
                       name.starts_with('_') || name.ends_with("_token_id");
    if (!known)
      fail(name, value,
           "which this program does not know; remove it if it does not change what the model "
           "computes");
  }
  for (const Json& type : fields.value("layer_types", Json::array())) {
    if (type != "full_attention") fail("layer_types", type, "supported is \"full_attention\"");
  }
}

void read_rope(const Json& fields, ModelConfig& config) {
  // Newer files keep everything in rope_parameters, older ones rope_theta at the top.
  const char* name = fields.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  Json rope = fields.value(name, Json());
  if (rope.is_null()) rope = Json::object();
  config.rope_theta = rope.value("rope_theta", fields.value("rope_theta", config.rope_theta));
  const std::string type = rope.value("rope_type", rope.value("type", "default"));
  const bool llama3 = type == "llama3";
  RopeScaling& scaling = config.rope_scaling;
  if (llama3) {
    scaling = {rope.at("factor"), rope.at("low_freq_factor"), rope.at("high_freq_factor"),
               rope.at("original_max_position_embeddings")};
  }
  for (const char* known : {"rope_theta", "rope_type", "type"}) rope.erase(known);
  const bool possible = config.rope_theta >= 1 && scaling.factor >= 1 &&
                        scaling.high_freq_factor > scaling.low_freq_factor &&
                        scaling.original_positions >= 1;
  if (!possible || (!llama3 && type != "default") || rope.size() != (llama3 ? 4 : 0)) {
    fail(name, fields.value(name, Json()),
         "supported are rope_type \"default\" and \"llama3\" with its four numbers");
  }
}

/// Appends the ids of eos_token_id, which is a number, a list or absent.
void add_end_ids(const Json& fields, std::vector<int64_t>& ids) {
  const Json value = fields.value("eos_token_id", Json());
  for (const Json& id : value.is_number() ? Json::array({value}) : value) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

}  // namespace

ModelConfig ModelConfig::from_file(const std::filesystem::path& path) {
  const Json fields = read_json(path, "--model wants a directory that holds it");
  const auto beside = path.parent_path() / "generation_config.json";
  const Json generation = std::filesystem::exists(beside) ? read_json(beside, "") : Json::object();
  ModelConfig config;
  config.source = fields.dump(2);
  try {
    check_supported(fields);
    config.family = fields.at("model_type");
    config.vocab_size = read_size("vocab_size", fields.at("vocab_size"));
    config.used_vocab_size = config.vocab_size;
    config.hidden_size = read_size("hidden_size", fields.at("hidden_size"));
    config.num_layers = read_size("num_hidden_layers", fields.at("num_hidden_layers"), 1000);
    config.ffn_size = read_size("intermediate_size", fields.at("intermediate_size"));
    auto& [heads, kv_heads, head_dim] = config.attention;
    heads = read_size("num_attention_heads", fields.at("num_attention_heads"));
    kv_heads = read_size("num_key_value_heads", fields.value("num_key_value_heads", Json(heads)));
    const Json dim = fields.value("head_dim", Json());
    head_dim = read_size("head_dim", dim.is_null() ? Json(config.hidden_size / heads) : dim);
    if (heads % kv_heads != 0 || head_dim % 2 != 0)
      fail("num_key_value_heads", kv_heads,
           "want a divisor of num_attention_heads, and an even head_dim");
    config.max_positions =
        read_size("max_position_embeddings", fields.at("max_position_embeddings"), 1 << 20);
    read_rope(fields, config);
    config.norm_eps = fields.value("rms_norm_eps", config.norm_eps);
    config.tie_embeddings = fields.value("tie_word_embeddings", false);
    add_end_ids(fields, config.end_ids);
    add_end_ids(generation, config.end_ids);
  } catch (const std::exception& error) {
    throw std::invalid_argument(path.string() + ": " + error.what());
  }
  return config;
}

void ModelConfig::to_file(const std::filesystem::path& path, torch::Dtype dtype) const {
  Json fields = source.empty()
                    ? Json{{"architectures", {kArchitectures.at(family)}},
                           {"model_type", family},
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
                           {"eos_token_id", end_ids.size() == 1 ? Json(end_ids[0]) : Json(end_ids)},
                           {"vocab_size", vocab_size}}
                    : Json::parse(source);
  fields[fields.contains("dtype") ? "dtype" : "torch_dtype"] =
      dtype == torch::kBFloat16  ? "bfloat16"
      : dtype == torch::kFloat16 ? "float16"
                                 : "float32";
  write_text(path, fields.dump(2) + "\n");
}

}  // namespace tiny_zero
