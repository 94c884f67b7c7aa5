#include "tiny_zero/verbs/bench.h"

#include <ATen/Parallel.h>
#include <torch/cuda.h>

#include <algorithm>
#include <cstdio>

#include "tiny_zero/random.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"
#include "tiny_zero/update.h"

namespace tiny_zero {
namespace {

void synchronise(const torch::Device& device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// FLOP/s of square matrix products, the best of several.
double matmul_rate(const torch::Device& device, torch::Dtype type) {
  const int64_t n = device.is_cuda() ? 8192 : 2048;
  const auto a = torch::randn({n, n}, torch::device(device)).to(type),
             b = torch::randn({n, n}, torch::device(device)).to(type);
  double best = 0;
  for (int i = 0; i < 6; ++i) {
    synchronise(device);
    Stopwatch watch;
    const auto c = a.mm(b);
    synchronise(device);
    best = std::max(best, 2.0 * n * n * n / watch.lap());
  }
  return best;
}

}  // namespace

void bench(Config config) {
  config.algorithm = Algorithm::grpo;  // without a critic, whatever a recipe says
  const torch::Device device(config.device);
  // No end ids, so that every response has its full length.
  ModelConfig shape = ModelConfig::from_settings(config, config.bench_vocab);
  shape.max_positions =
      std::max(config.max_positions, config.prompt_tokens + config.response_tokens);
  const uint64_t seed = config.seed;
  Learner learner(Model(shape, Head::language_model, seed, device), config);
  Model& model = learner.model;
  const torch::Dtype type = to_dtype(config.compute_type);
  Sampler sampler(model, {/*temperature=*/1.0, /*top_p=*/1.0, config.response_tokens,
                          config.rollout_batch, seed});

  std::vector<std::vector<int64_t>> prompts(config.prompts_per_step);
  for (size_t p = 0; p < prompts.size(); ++p)
    for (int64_t t = 0; t < config.prompt_tokens; ++t)
      prompts[p].push_back(random_bits(seed, Stream::shuffle, p, t) % config.bench_vocab);
  std::vector<double> rollout_s, update_s;
  for (int64_t step = 0; step <= config.bench_steps; ++step) {  // the first warms up
    synchronise(device);
    Stopwatch watch;
    Rollout rollout = sampler.sample(prompts, config.group_size, step);
    synchronise(device);
    const double sampling = watch.lap();
    rollout.rewards = torch::zeros({rollout.size()});
    const Judgement judgement{rollout.rewards, rollout.mask, {}, {}};
    const torch::Tensor steps = torch::linspace(-1.0, 1.0, rollout.size()).unsqueeze(1);
    update_policy(learner, rollout, judgement, {steps * rollout.mask, {}}, config, step);
    synchronise(device);
    if (step > 0) {
      rollout_s.push_back(sampling);
      update_s.push_back(watch.lap());
    }
  }
  const int64_t responses = config.prompts_per_step * config.group_size;
  const int64_t all_tokens = config.prompt_tokens + config.response_tokens;
  const double rollout_rate = responses * config.response_tokens / median(rollout_s);
  const double update_rate = responses * all_tokens / median(update_s);
  // Matrix products only, without attention: 2 FLOP per weight and token forward, 4 backward.
  const double weights = model.parameters().numel(), peak = matmul_rate(device, type);
  std::printf("%-10s %10s %24s\n", "phase", "tokens/s", "of matrix-product rate");
  for (const auto& [phase, rate, flop] :
       {std::tuple{"rollout", rollout_rate, 2}, std::tuple{"update", update_rate, 6}})
    std::printf("%-10s %10.0f %23.0f%%\n", phase, rate, 100 * rate * flop * weights / peak);
  std::printf("matrix products: %.0f GFLOP/s, %d threads\n", peak / 1e9, at::get_num_threads());
  const Json line = {{"parameters", model.parameters().numel()},
                     {"threads", at::get_num_threads()},
                     {"compute_type", type == torch::kBFloat16 ? "bfloat16" : "float32"},
                     {"rollout_tokens_per_s", std::round(rollout_rate)},
                     {"update_tokens_per_s", std::round(update_rate)},
                     {"matmul_gflop_per_s", std::round(peak / 1e9)}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace tiny_zero
