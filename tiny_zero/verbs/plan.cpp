#include "tiny_zero/verbs/plan.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {
namespace {

constexpr double kGiB = 1 << 30;

std::string human(double bytes) { return format("%.2f GiB", bytes / kGiB); }

/// config.memory in bytes. If that is empty, the free memory of the device; on the CPU with what
/// this process already holds.
double available_memory(const Config& config, double resident) {
  double number = 0;
  char unit[4] = "";
  if (std::sscanf(config.memory.c_str(), "%lf %3s", &number, unit) == 2 && number > 0) {
    for (const auto& [name, bytes] :
         {std::pair{"GiB", kGiB}, {"MiB", kGiB / 1024}, {"GB", 1e9}, {"MB", 1e6}})
      if (std::string(name) == unit) return number * bytes;
  }
  if (!config.memory.empty())
    throw std::invalid_argument("gpu-memory is \"" + config.memory +
                                "\", want a size such as 24GiB or 800MB");
  const torch::Device device(config.device);
  if (device.is_cuda()) {
    torch::zeros({1}, torch::device(device));  // wakes the allocator
    const int index = std::max<int>(0, device.index());
    return c10::getDeviceAllocator(device.type())->getMemoryInfo(index).first;
  }
  std::ifstream file("/proc/meminfo");
  std::string word;
  while (file >> word && word != "MemAvailable:") continue;
  return file >> number ? number * 1024 + resident : std::numeric_limits<double>::infinity();
}

/// Resident memory of the process, in bytes.
double resident_memory() {
  std::ifstream file("/proc/self/statm");
  double all = 0, pages = 0;
  file >> all >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& shape, const Config& config, int64_t longest_prompt) {
  const bool own_critic = config.has_own_critic(), adapted = config.lora_rank > 0;
  const auto count = [](const Model& model) -> double { return model.parameters().numel(); };
  const auto model = [&](Head head) { return Model(shape, head, torch::kMeta); };
  const double plain = count(model(Head::language_model));
  const double policy = config.has_shared_critic() ? count(model(Head::both)) : plain;
  const double critic = own_critic ? count(model(Head::value)) : 0;
  const double prm = config.has_prm() ? plain : 0;
  const Lora lora{config.lora_rank, config.lora_alpha, "", ""};
  const double adapters = adapted ? count(model(Head::language_model).with_adapters(lora, 0)) : 0;
  const double trained = adapted ? adapters : policy;
  const bool copied_reference = !adapted || config.reference_every > 0;
  const double reference = config.has_reference() && copied_reference ? plain : 0;
  const bool cuda = config.device.starts_with("cuda"),
             narrow = config.compute_type == ComputeType::bfloat16;
  const double element = narrow ? 2 : 4;

  const auto& [heads, kv_heads, dim] = shape.attention;
  const double d = shape.hidden_size, layers = shape.num_layers, vocab = shape.vocab_size;
  const double ffn = (shape.gated() ? 3 : 2) * shape.ffn_size;  // kept for the backward pass
  const double width = shape.attention.qkv_width(), attended = heads * dim,
               kv_width = kv_heads * dim;

  // With adapters: W + B A of all matrices, for sampling, and kept for the backward pass.
  const double merged = adapted && !narrow ? 4 * layers * d * (width + attended + ffn) : 0;

  // Sampling: the KV cache of every row; the prompts' keys and values before they are copied into
  // it; the logits of this token and the next.
  const int64_t groups = std::clamp<int64_t>(config.rollout_batch / config.group_size, 1,
                                             std::max<int64_t>(1, config.prompts_per_step));
  const double rows = groups * config.group_size, prompt = longest_prompt;
  const int64_t longest = longest_prompt + config.max_response_tokens;
  const double cache = layers * rows * 2 * kv_width * ((longest + 15) / 16 * 16) * element;
  const double sampling = rows * prompt * (width + 4 * kv_width) * element + rows * vocab * 20 +
                          groups * prompt * (ffn + width + 4 * d) * element;

  // Update: what the backward pass keeps of each layer (the inputs of two norms and four products,
  // q, k and v), plus the larger of two: the logits of one chunk with the embedding's gradient, or
  // the gradients inside one layer.
  const int64_t parts =
      own_critic ? std::min(config.mini_batches, config.critic_mini_batches) : config.mini_batches;
  const int64_t mini_batch = (config.prompts_per_step * config.group_size + parts - 1) / parts;
  const double tokens =
      std::min(std::max(config.tokens_per_micro_batch, longest), mini_batch * longest);
  // Of these, response tokens; where a group shares its prompt nearly all are.
  const double of_group = static_cast<double>(config.group_size * config.max_response_tokens),
               responses = tokens * of_group / (longest_prompt + of_group);
  double per_token = 4 * d + width + attended + heads + ffn;
  if (shape.qk_norm()) per_token += attended + kv_width;
  // The reference implementation keeps more than the fused kernels: LibTorch's GELU and LayerNorm,
  // as measured, and everything on a GPU.
  if (!shape.gated()) per_token += (shape.all_bias() ? 4 : 2) * d;
  if (cuda || dim % 16 != 0) per_token += 12 * d / element + 4 * attended + shape.ffn_size;
  // Fragmentation, measured: tensors have other sizes in each micro-batch.
  constexpr double kGaps = 1.1, kChunk = 1 << 25, kChunkCopies = 6;  // chunks of token_log_probs()
  // At the end come two norms, and the head's rows and their gradient in float32.
  const double activations = kGaps * tokens * (element * layers * per_token + 24 * d);
  const double logits =
      kGaps * std::min(responses * vocab, std::max(kChunk, vocab)) * 4 * kChunkCopies +
      2 * vocab * d * 4;
  const double inside_layer = tokens * (ffn + 2 * d) * element;

  MemoryPlan plan;
  // LibTorch grows by what it compiles for the CPU: measured.
  plan.rows = {{"program and libraries", cuda ? 0.5 * kGiB : resident_memory() + 0.03 * kGiB},
               {"master weights (float32)", 4 * policy},
               {"weights in bfloat16", narrow ? 2 * policy : 0},
               {"adapters", 4 * adapters},
               {"weights with the adapters", merged},
               {"gradients", 4 * trained},
               {"optimiser (two moments)", 8 * trained},
               {"critic (all four of these)", 16 * critic},
               {"reference", 4 * reference},
               {"PRM (all four) and its reference", 20 * prm},
               {"KV cache", cache},
               {"sampling: prompts and logits", sampling, true},
               {"update: activations", activations, true},
               {"update: logits, or inside a layer", std::max(logits, inside_layer), true}};
  plan.total = std::max(sampling, activations + std::max(logits, inside_layer));
  for (const auto& row : plan.rows) plan.total += row.transient ? 0 : row.bytes;
  return plan;
}

MemoryPlan plan_memory(const Config& config, const Task& task, const Tokenizer& tokenizer,
                       const std::filesystem::path& model) {
  int64_t longest_prompt = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const auto ids = tokenizer.encode_prompt(task.problem(Split::train, i).prompt);
    longest_prompt = std::max(longest_prompt, std::ssize(ids));
  }
  const auto shape = ModelConfig::from_file(model / "config.json");
  MemoryPlan plan = plan_memory(shape, config, longest_prompt);
  plan.available = available_memory(config, plan.rows[0].bytes);

  Config smaller = config;  // by the changes below, the cheapest first
  const auto halve = [](int64_t& value, int64_t least) {
    return value > least && (value = std::max(value / 2, least));
  };
  const auto change = [](auto& value, auto to) { return std::exchange(value, to) != to; };
  const int64_t longest = longest_prompt + config.max_response_tokens;
  const bool can_share = config.has_own_critic() && config.critic_warmup_steps == 0;
  const std::function<bool()> changes[] = {
      [&] { return halve(smaller.tokens_per_micro_batch, longest); },
      [&] { return halve(smaller.rollout_batch, config.group_size); },
      [&] { return change(smaller.compute_type, ComputeType::bfloat16); },
      [&] { return can_share && change(smaller.critic, CriticNetwork::shared); },
      [&] { return change(smaller.kl, KlPlacement::none); }};
  const auto fits = [&] {
    return plan_memory(shape, smaller, longest_prompt).total <= plan.available;
  };
  for (const auto& next : changes)
    while (!fits() && next()) continue;
  if (!fits()) return plan;
  Config original = config;
  const Settings before = original.settings(), after = smaller.settings();
  for (const auto& setting : after)
    if (setting.get() != before.find(setting.name).get())
      plan.remedy += " --" + setting.name + " " + setting.get();
  return plan;
}

std::string show(const MemoryPlan& plan) {
  std::printf("%-34s %12s\n", "memory for", "planned");
  for (const auto& [name, bytes, transient] : plan.rows)
    if (bytes > 0)
      std::printf("%-34s %12s%s\n", name.c_str(), human(bytes).c_str(), transient ? " *" : "");
  std::printf("%-34s %12s   (* one phase at a time) of %s\n\n", "peak", human(plan.total).c_str(),
              human(plan.available).c_str());
  std::fflush(stdout);
  if (plan.total <= plan.available) return "";
  return "training needs " + human(plan.total) + ", there are " + human(plan.available) +
         (plan.remedy.empty() ? "; no setting makes that fit: take a smaller model"
                              : "; this would fit:" + plan.remedy);
}

void plan(const Config& config, const Task& task) {
  if (config.rewards_steps() && !task.grades_steps()) {
    throw std::invalid_argument("supervision is process, and task " + config.task +
                                " grades whole responses only; want supervision = outcome, or a "
                                "task that grades steps, as countdown does");
  }
  const auto model =  // that training starts or goes on from
      config.resume ? checkpoint_to_resume(run_path(config)) / "model" : model_directory(config);
  const auto tokenizer = Tokenizer::from_file(model / "tokenizer.json");
  const std::string too_much = show(plan_memory(config, task, tokenizer, model));
  if (!too_much.empty()) throw std::invalid_argument(too_much);
}

}  // namespace tiny_zero
