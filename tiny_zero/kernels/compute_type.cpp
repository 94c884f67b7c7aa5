#include "tiny_zero/kernels/compute_type.h"

#include <iostream>

namespace tiny_zero {

/// Whether the CPU multiplies bfloat16 in hardware and this program was built for it, asked of the
/// processor that runs it: AVX-512 BF16, which every processor with AMX has as well.
static bool cpu_multiplies_bfloat16() {
#ifdef __AVX512BF16__
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

ComputeType settle_compute_type(ComputeType asked, const std::string& device, bool quiet) {
  const bool cpu = device == "cpu", fast = !cpu || cpu_multiplies_bfloat16();
  if (asked == ComputeType::automatic) {
    if (!quiet)
      std::cerr << "compute-type: auto takes " << (fast ? "bfloat16" : "float32") << ", as "
                << (!cpu   ? "on every GPU"
                    : fast ? "this processor multiplies it (AVX-512 BF16)"
                           : "this processor, or this build, does not multiply bfloat16 (AVX-512 "
                             "BF16)")
                << '\n';
    return fast ? ComputeType::bfloat16 : ComputeType::float32;
  }
  if (asked == ComputeType::bfloat16 && !fast) {
    std::cerr
        << "tiny_zero: compute-type is bfloat16, which this processor, or this build, does "
           "not multiply (AVX-512 BF16): float32 is faster here, and a run that began on another "
           "processor goes on with other roundings\n";
  }
  return asked;
}

}  // namespace tiny_zero
