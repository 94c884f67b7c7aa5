#pragma once
// The memory that training will need, computed from shapes before anything is allocated.

#include <filesystem>
#include <string>
#include <vector>

#include "tiny_zero/files/tokenizer.h"
#include "tiny_zero/model.h"
#include "tiny_zero/settings/choices.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

struct MemoryPlan {
  struct Row {
    std::string name;
    double bytes;
    bool transient = false;  // held only while sampling or only while updating
  };
  std::vector<Row> rows;
  double total = 0, available = 0;  // bytes
  std::string remedy;               // flags that make it fit; "" if it fits, or if none would help
};

/// Peak memory of one step. Within a few percent where the fused kernels run (float32 on the CPU),
/// an estimate elsewhere.   @param longest_prompt  in tokens
MemoryPlan plan_memory(const ModelConfig& shape, const Config& config, int64_t longest_prompt);

/// The same for config.model and the longest of the task's first prompts.
MemoryPlan plan_memory(const Config& config, const Task& task, const Tokenizer& tokenizer,
                       const std::filesystem::path& model);

/// Prints the table.   @return "" if the plan fits, else by how much it does not, and the remedy
std::string show(const MemoryPlan& plan);

/// The verb `plan`, which also precedes training: prints the table.
/// @throws std::invalid_argument with the remedy if the plan does not fit, or if the task cannot
/// reward steps as the settings want
void plan(const Config& config, const Task& task);

}  // namespace tiny_zero
