#pragma once
// The header of a safetensors file: an 8-byte length, then a JSON object with the type, shape and
// byte range of each tensor. Does without torch, so that tests/fuzz.cpp can run it under
// sanitizers.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tiny_zero {

struct StoredTensor {
  std::string name, dtype;  // "F32", "BF16", ... as the file has it
  std::vector<int64_t> shape;
  size_t begin, end;  // bytes in the file
};

/// Bytes of one element, 0 for a type that is not supported.
size_t safetensors_element_bytes(const std::string& dtype);

/// The tensors of a whole file, in the order of their bytes. Checked: the ranges fill the file
/// without gap or overlap, and each has the size of its shape and type. Nothing is allocated by a
/// size that has not been compared with the file's.
/// @throws std::runtime_error with the file, the tensor, what was found and what was wanted
std::vector<StoredTensor> read_safetensors_header(std::span<const char> file,
                                                  const std::string& name_for_errors);

}  // namespace tiny_zero
