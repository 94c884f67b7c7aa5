#pragma once
// Supervised fine-tuning: next-token prediction on given responses. On a model's own right ones it
// is rejection-sampling fine-tuning [RFT], on a stronger model's it is distillation [Open R1].

#include "tiny_zero/files/run_directory.h"

namespace tiny_zero {

/// Trains config.model on the {"prompt", "response"} lines of config.data and saves it in
/// RUNS-DIR/NAME/model. Learnt are the tokens of each response and the end token after it, not the
/// prompt's, which is taken as it is: a chat form has to be in it. metrics.jsonl gets one object
/// per update: step, tokens, loss (nats per response token, mean over the update), lr, grad_norm
/// (before it is clipped), tokens_per_s.
/// @throws std::invalid_argument with the line that cannot be used, or if a resumed run's data are
/// not those that it began with
void sft(const Config& config, const Settings& settings);

}  // namespace tiny_zero
