#pragma once
// A step's inputs and results as one safetensors file: for tests/check_step.py, which computes it
// again in PyTorch, and to debug a step whose loss was not finite.

#include <map>
#include <string>

#include "tiny_zero/advantage.h"
#include "tiny_zero/files/safetensors.h"

namespace tiny_zero {

class StepDump {
 public:
  /// A copy of the tensor under this name; bool is stored as int64. An undefined one is left
  /// out.
  void add(const std::string& name, const torch::Tensor& tensor);
  void add(const std::string& name, double value) {
    add(name, torch::tensor({value}, torch::kFloat32));
  }
  void add_named(const std::string& prefix, const NamedTensors& tensors);
  void add_rollout(const Collection& collected, const Judgement& judgement,
                   const Advantages& estimate);
  /// A table to be filled in, zeros of the shape and type of `like` at its first use.
  torch::Tensor& table(const std::string& name, const torch::Tensor& like);
  void save(const std::filesystem::path& path) const;

 private:
  std::map<std::string, torch::Tensor> tensors_;
};

}  // namespace tiny_zero
