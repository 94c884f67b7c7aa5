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
  std::vector<Tensor> prompts;
  std::vector<int64_t> prompt_lengths, finished(rollout.finished.begin(), rollout.finished.end());
  std::vector<double> rewards, rule_rewards;
  std::vector<int64_t> correct;
  for (const Grade& grade : collected.sampled_grades) {
    rule_rewards.push_back(grade.reward);
    correct.push_back(grade.correct);
  }
  for (const auto& prompt : rollout.prompts) {
    prompts.push_back(torch::tensor(prompt, torch::kInt64));
    prompt_lengths.push_back(std::ssize(prompt));
  }
  for (const Grade& grade : rollout.grades) rewards.push_back(grade.reward);
  add("prompt_ids", torch::pad_sequence(prompts, /*batch_first=*/true));
  add("prompt_lengths", torch::tensor(prompt_lengths));
  add("response_ids", rollout.response_ids);
  add("lengths", torch::tensor(rollout.lengths));
  add("finished", torch::tensor(finished));
  add("rewards", torch::tensor(rewards, torch::kFloat32));
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
  add("collected_rule_rewards", torch::tensor(rule_rewards, torch::kFloat32));
  add("collected_correct", torch::tensor(correct, torch::kInt64));
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
