#pragma once
// Makes the tiny base model: next-token prediction on the task's base text.

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// Trains a new model of the configured shape on `pretrain_tokens` tokens and saves it in
/// RUNS-DIR/NAME/model. metrics.jsonl gets one object every 20 updates: step, tokens, loss (nats
/// per token), lr, grad_norm, tokens_per_s.
void pretrain(const Config& config, const Settings& settings, const Task& task);

}  // namespace tiny_zero
