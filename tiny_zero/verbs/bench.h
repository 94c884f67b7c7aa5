#pragma once
// How fast the machine samples and updates: `tiny_zero bench`.

#include "tiny_zero/files/run_directory.h"

namespace tiny_zero {

/// Runs prompts-per-step x group-size responses of exactly response-tokens tokens through sampling
/// and one GRPO update, on random weights of the configured shape. Prints tokens per second, the
/// share of the measured rate of large matrix products, and as last line the same as JSON.
void bench(const Config& config);

}  // namespace tiny_zero
