// What a GPU runs, without one: a second device whose memory is the host's. Every operation on it
// is computed on the CPU, but only if its tensors lie on one device, as CUDA demands. The model
// takes the same way there as on a GPU: LibTorch's operations instead of the fused CPU kernels, and
// copies wherever the CPU must see a value.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <doctest/doctest.h>
#include <torch/cuda.h>
#include <torch/library.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/trainer.h"
#include "tiny_zero/verbs/pretrain.h"

using namespace tiny_zero;
using torch::Tensor;

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;

struct HostMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = std::malloc(std::max<size_t>(1, bytes));
    return {memory, memory, &std::free, c10::Device(kDevice, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

HostMemory memory;
constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

using Sizes = at::IntArrayRef;
using Type = std::optional<at::ScalarType>;

Tensor empty(Sizes size, Type type, std::optional<at::Layout>, std::optional<at::Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return Tensor(at::detail::empty_generic(size, &memory, kKeys, type.value_or(at::kFloat), format));
}

Tensor empty_strided(Sizes size, Sizes stride, Type type, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
  return Tensor(
      at::detail::empty_strided_generic(size, stride, &memory, kKeys, type.value_or(at::kFloat)));
}

/// The same memory as a tensor of the CPU.
Tensor seen_by_cpu(const Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(),
                       at::TensorOptions(tensor.scalar_type()));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  seen_by_cpu(to).copy_(seen_by_cpu(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (from.sizes() != to.sizes()) {
    const Tensor fresh = empty(from.sizes(), from.scalar_type(), {}, {}, {}, {});
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
  }
  return copy_from(from, to, /*non_blocking=*/false);
}

at::Scalar to_scalar(const Tensor& tensor) { return at::_local_scalar_dense(seen_by_cpu(tensor)); }

/// Numbers (no dimensions) may come from the CPU, and the index lists of index() and index_put_();
/// nothing else.
void on_one_device(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto check = [&](const Tensor& tensor) {
    TORCH_CHECK(!tensor.defined() || tensor.dim() == 0 || tensor.device().type() == kDevice,
                op.schema().name(), " got a tensor of the CPU beside one of the device");
  };
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (argument.isTensor()) check(argument.toTensor());
    if (argument.isTensorList()) {
      for (const Tensor& tensor : argument.toTensorVector()) check(tensor);
    }
  }
  at::native::cpu_fallback(op, stack);
}

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kDevice> {
  c10::Device exchangeDevice(c10::Device) const override { return {kDevice, 0}; }
  c10::Device getDevice() const override { return {kDevice, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, getDevice());
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, getDevice());
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_one_device>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &to_scalar);
}

/// A GPU if there is one, else the device above.
torch::Device other_device() {
  static const std::string name = [] {
    if (torch::cuda::is_available()) return "cuda:0";
    c10::register_privateuse1_backend("second");
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    return "second:0";
  }();
  return torch::Device(name);
}

Model make_model(const torch::Device& device, Head head, const std::string& family = "qwen2") {
  ModelConfig config;
  config.family = family;
  config.vocab_size = 20;
  config.used_vocab_size = 18;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.attention = {4, 2, 16};
  config.ffn_size = 64;
  config.max_positions = 64;
  config.tie_embeddings = family == "qwen2";
  config.end_ids = {0};
  Model model(config, head, /*seed=*/3, device);
  const at::NoGradGuard no_grad;
  model.parameters().mul_(3.0);
  return model;
}

const std::vector<std::vector<int64_t>> kPrompts{{1, 2, 3}, {4, 5}, {6}, {7, 3, 2, 1}};

Rollout sample(const Model& policy, double temperature, double top_p = 1.0) {
  Sampler sampler(policy,
                  {temperature, top_p, /*max_response_tokens=*/12, /*batch=*/8, /*seed=*/1});
  Rollout rollout = sampler.sample(kPrompts, /*group_size=*/4, /*call=*/0);
  rollout.rewards = torch::zeros({rollout.size()});
  return rollout;
}

/// Every figure of a run's metrics but times and memory.
std::vector<Json> metrics_of(const std::filesystem::path& run) {
  std::ifstream file(run / "metrics.jsonl");
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(Json::parse(line));
    for (const char* name :
         {"rollout_tokens_per_s", "update_tokens_per_s", "step_s", "wall_s", "peak_memory_bytes"})
      lines.back().erase(name);
  }
  return lines;
}

}  // namespace

TEST_CASE("a second device refuses to mix, as CUDA does") {
  const Tensor here = torch::ones({2}), there = torch::ones({2}).to(other_device());
  CHECK((there.device() == other_device()));
  CHECK(torch::equal((there + there).cpu(), here + here));
  CHECK_THROWS_AS(there + here, c10::Error);
  CHECK_THROWS_AS(torch::cat({there, here}), c10::Error);
}

TEST_CASE("sampling and scoring on a second device give what the CPU gives") {
  const at::NoGradGuard no_grad;
  for (const std::string family : {"qwen2", "qwen3", "tiny_zero_roformer_v2", "tiny_zero_gpt"}) {
    const Model here = make_model(torch::kCPU, Head::both, family),
                there = make_model(other_device(), Head::both, family);
    CHECK(torch::equal(there.parameters().cpu(), here.parameters()));
    for (const double top_p : {1.0, 0.8}) {
      const Rollout a = sample(here, /*temperature=*/0.7, top_p),
                    b = sample(there, /*temperature=*/0.7, top_p);
      CHECK(torch::equal(a.response_ids, b.response_ids));
      CHECK(torch::allclose(a.log_probs, b.log_probs, 1e-4, 1e-5));
    }
    const Rollout greedy = sample(here, /*temperature=*/0);
    CHECK(torch::equal(greedy.response_ids, sample(there, /*temperature=*/0).response_ids));
    CHECK(torch::allclose(score_log_probs(here, greedy, 1.0, 64),
                          score_log_probs(there, greedy, 1.0, 64), 1e-4, 1e-5));
    CHECK(torch::allclose(score_values(here, greedy, 64), score_values(there, greedy, 64), 1e-4,
                          1e-5));
  }
}

TEST_CASE("bfloat16 products on a second device: sampling, scoring and an update agree") {
  Model there = make_model(other_device(), Head::language_model);
  there.set_compute_type(torch::kBFloat16);
  const Rollout rollout = sample(there, /*temperature=*/1);
  CHECK(torch::isfinite(rollout.log_probs).all().item<bool>());
  CHECK((rollout.log_probs - score_log_probs(there, rollout, 1.0, 64)).abs().max().item<double>() <
        0.2);
  Config config;
  config.learning_rate = 1e-3;
  config.compute_type = ComputeType::bfloat16;
  Learner learner(there, config);
  const Tensor slopes = torch::linspace(-1, 1, rollout.size()).unsqueeze(1);
  const Tensor before = there.parameters().clone();
  const UpdateStats stats = update_policy(learner, rollout, {rollout.rewards, rollout.mask, {}, {}},
                                          {slopes * rollout.mask, {}}, config, /*step=*/0);
  CHECK(stats.skipped.empty());
  CHECK(stats.ratio_max_deviation < 0.2);
  CHECK(stats.grad_norm > 1e-3);
  CHECK((there.parameters() - before).abs().max().item<double>() ==
        doctest::Approx(1e-3).epsilon(0.01));
}

TEST_CASE(
    "training on a second device gives the CPU's figures: PPO, PRIME, and GRPO of adapters, with "
    "all terms, saved and resumed") {
  const auto place =
      std::filesystem::temp_directory_path() / ("tiny_zero_device_" + std::to_string(getpid()));
  Config base;
  base.runs_dir = place.string();
  base.name = "base";
  base.layers = 2;
  base.hidden = 64;
  base.pretrain_tokens = 6000;
  const auto task = make_task("countdown");
  const Settings task_settings = task->settings();
  task_settings.find("countdown-template").parse("short");
  task_settings.find("countdown-number-max").parse("9");
  task_settings.find("countdown-target-min").parse("1");
  task->prepare(0);
  pretrain(base, base.settings(), *task);
  for (const auto algorithm : {Algorithm::ppo, Algorithm::grpo, Algorithm::prime}) {
    Config config = base;
    config.model = (place / "base" / "model").string();
    config.algorithm = algorithm;
    config.kl = algorithm == Algorithm::ppo ? KlPlacement::reward : KlPlacement::loss_k3;
    config.lora_rank = algorithm == Algorithm::grpo ? 4 : 0;
    config.reference_every = 1;
    config.entropy_coef = 0.01;
    config.prompts_per_step = 4;
    config.group_size = 4;
    config.mini_batches = 2;
    config.max_response_tokens = 24;
    config.learning_rate = 1e-4;
    config.save_every = 1;
    std::vector<std::vector<Json>> metrics;
    for (const std::string& device : {std::string("cpu"), other_device().str()}) {
      config.device = device;
      config.name = std::to_string(static_cast<int>(algorithm)) + "_" + device.substr(0, 3);
      for (config.num_steps = 1; config.num_steps <= 2; ++config.num_steps) {
        config.resume = config.num_steps == 2;
        RunDirectory directory(config, config.settings());
        Trainer(config, *task, directory).run();
      }
      metrics.push_back(metrics_of(place / config.name));
    }
    REQUIRE(metrics[0].size() == 2);
    REQUIRE(metrics[1].size() == 2);
    for (size_t step = 0; step < 2; ++step) {
      for (const auto& [name, value] : metrics[0][step].items()) {
        CAPTURE(name);
        const Json& other = metrics[1][step].at(name);
        if (!value.is_number()) {
          CHECK(value == other);
        } else if (name != "ratio_max_deviation" && name != "log_prob_gap_mean") {  // pure rounding
          CHECK(std::abs(value.get<double>() - other.get<double>()) <
                1e-4 + 1e-3 * std::abs(value.get<double>()));
        }
      }
    }
  }
  std::filesystem::remove_all(place);
}
