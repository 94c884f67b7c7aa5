#pragma once
// Which type of matrix products is the fastest on a device.

#include <string>

#include "tiny_zero/settings/choices.h"

namespace tiny_zero {

/// What `asked` means on `device`: auto takes bfloat16 on CUDA and on a CPU that multiplies it,
/// else float32. Says on standard error what auto took and why, unless `quiet`, and if bfloat16 is
/// the slow choice.
ComputeType settle_compute_type(ComputeType asked, const std::string& device, bool quiet);

}  // namespace tiny_zero
