#include "tiny_zero/learner.h"

#include <ATen/ops/_fused_adamw.h>

#include <cmath>
#include <numbers>

#include "tiny_zero/files/safetensors.h"
#include "tiny_zero/random.h"
#include "tiny_zero/settings/config.h"

namespace tiny_zero {

using torch::Tensor;

AdamW::AdamW(const Tensor& parameters, const Config& config)
    : mean(torch::zeros_like(parameters)),
      square(torch::zeros_like(parameters)),
      beta1_(config.beta1),
      beta2_(config.beta2),
      epsilon_(config.adam_epsilon),
      weight_decay_(config.weight_decay),
      max_grad_norm_(config.max_grad_norm) {}

double AdamW::step(Tensor& parameters, Tensor& gradients, double learning_rate) {
  const at::NoGradGuard no_grad;
  const double norm = gradients.norm().item<double>();
  if (std::isfinite(norm)) {
    if (max_grad_norm_ > 0 && norm > max_grad_norm_) gradients.mul_(max_grad_norm_ / norm);
    ++updates;
    const Tensor count = torch::full({}, static_cast<float>(updates), parameters.options());
    at::_fused_adamw_({parameters}, {gradients}, {mean}, {square}, /*max_exp_avg_sqs=*/{}, {count},
                      learning_rate, beta1_, beta2_, weight_decay_, epsilon_, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  gradients.zero_();
  return norm;
}

double LearningRate::at(int64_t update) const {
  if (update < warmup_updates) return peak * (update + 1) / warmup_updates;
  const double span = std::max<int64_t>(1, total_updates - 1 - warmup_updates);
  const double progress = std::min(1.0, (update - warmup_updates) / span);
  double passed = 0;  // of the way from peak to final
  if (schedule == Schedule::linear) passed = progress;
  if (schedule == Schedule::cosine) passed = (1 - std::cos(std::numbers::pi * progress)) / 2;
  return peak + (final - peak) * passed;
}

LearningRate policy_learning_rate(const Config& config) {
  return {config.learning_rate, config.final_learning_rate, config.schedule, config.warmup_updates,
          config.epochs * config.mini_batches * (config.num_steps - config.critic_only_steps())};
}

LearningRate critic_learning_rate(const Config& config) {
  const double fraction =
      config.learning_rate > 0 ? config.final_learning_rate / config.learning_rate : 0;
  return {config.critic_learning_rate, config.critic_learning_rate * fraction, config.schedule,
          config.warmup_updates, config.epochs * config.critic_mini_batches * config.num_steps};
}

Learner::Learner(Model start, const Config& config)
    : model(std::move(start)), optimizer(model.parameters(), config) {
  model.set_compute_type(to_dtype(config.compute_type));
}

void Learner::save(const std::filesystem::path& directory, const std::string& name) const {
  model.save(directory / name);
  save_safetensors(directory / (name + "_optimizer.safetensors"),
                   {{"mean", optimizer.mean},
                    {"square", optimizer.square},
                    {"updates", torch::tensor({optimizer.updates})}});
}

Learner Learner::load(const std::filesystem::path& directory, const std::string& name, Head head,
                      torch::Device device, const Config& config) {
  Learner learner(Model::load(directory / name, head, device), config);
  const std::filesystem::path path = directory / (name + "_optimizer.safetensors");
  const auto stored = load_safetensors(path);
  AdamW& optimizer = learner.optimizer;
  for (auto [key, tensor] :
       {std::pair{"mean", &optimizer.mean}, std::pair{"square", &optimizer.square}}) {
    if (!stored.contains(key) || stored.at(key).numel() != tensor->numel())
      throw std::runtime_error(path.string() + ": " + key +
                               " does not fit the model; was the critic setting changed?");
    tensor->copy_(stored.at(key));
  }
  optimizer.updates = stored.at("updates").item<int64_t>();
  return learner;
}

void init_value_head(Model& model, HeadInit init, uint64_t seed) {
  if (init == HeadInit::zero) return;  // as Model::load() left it
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(random_bits(seed, Stream::value_head));
  const Tensor start = torch::empty(model.value_head().sizes());
  if (init == HeadInit::orz)
    start.uniform_(-std::sqrt(5.0), std::sqrt(5.0), generator);
  else
    start.normal_(0.0, 1.0 / (model.config().hidden_size + 1), generator);
  model.value_head().copy_(start);
}

}  // namespace tiny_zero
