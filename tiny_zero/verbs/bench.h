#pragma once
// How fast the machine samples and updates: `tiny_zero bench`.

#include "tiny_zero/files/run_directory.h"

namespace tiny_zero {

/// Samples prompts-per-step x group-size responses of exactly response-tokens tokens and makes one
/// GRPO update with them, on random weights of the configured shape. Prints tokens per second, also
/// as a percentage of the measured rate of large matrix products, then the same as a line of JSON.
void bench(Config config);

}  // namespace tiny_zero
