#include "tiny_zero/step_dump.h"

namespace tiny_zero {

using torch::Tensor;

void StepDump::add(const std::string& name, const Tensor& tensor) {
  if (!tensor.defined()) return;
  const Tensor copy = tensor.detach().to(torch::kCPU).clone();
  tensors_[name] = copy.scalar_type() == torch::kBool ? copy.to(torch::kInt64) : copy;
}

void StepDump::add_named(const std::string& prefix, const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) add(prefix + name, tensor);
}

void StepDump::add_rollout(const Collection& collected, const Judgement& judgement,
                           const Advantages& estimate) {
  const Rollout& rollout = collected.rollout;
  const auto column = [](const auto& rows, const auto& member, torch::Dtype type) {
    std::vector<double> values;
    for (const auto& row : rows) values.push_back(std::invoke(member, row));
    return torch::tensor(values, type);
  };
  std::vector<Tensor> prompts;
  for (const auto& prompt : rollout.prompts)
    prompts.push_back(torch::tensor(prompt, torch::kInt64));
  add("prompt_ids", torch::pad_sequence(prompts, /*batch_first=*/true));
  add("prompt_lengths", column(rollout.prompts, &std::vector<int64_t>::size, torch::kInt64));
  add("response_ids", rollout.response_ids);
  add("lengths", torch::tensor(rollout.lengths));
  add("finished", column(rollout.finished, std::identity{}, torch::kInt64));
  add("rewards", column(rollout.grades, &Grade::reward, torch::kFloat32));
  add("sampled_log_probs", rollout.log_probs);
  add("shaped_rewards", judgement.rewards);
  add("loss_mask", judgement.loss_mask);
  add("ref_log_probs", judgement.ref_log_probs);
  add("values", judgement.values);
  add("process_rewards", judgement.process_rewards);
  add("advantages", estimate.advantages);
  add("returns", estimate.returns);
  add("old_log_probs", judgement.old_log_probs);
  add("steps", judgement.steps);
  add("collected_rule_rewards", column(collected.sampled_grades, &Grade::reward, torch::kFloat32));
  add("collected_correct", column(collected.sampled_grades, &Grade::correct, torch::kInt64));
  add("collected_rewards", collected.sampled_rewards);
  add("kept_groups", torch::tensor(collected.kept_groups, torch::kInt64));
}

Tensor& StepDump::table(const std::string& name, const Tensor& like) {
  Tensor& table = tensors_[name];
  if (!table.defined()) table = torch::zeros_like(like);
  return table;
}

void StepDump::save(const std::filesystem::path& path) const {
  save_safetensors(path, NamedTensors(tensors_.begin(), tensors_.end()));
}

}  // namespace tiny_zero
