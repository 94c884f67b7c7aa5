// The file format: what is written comes back, and a file that lies is refused with the name of the
// liar.

#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "tiny_zero/files/safetensors.h"

using namespace tiny_zero;
namespace fs = std::filesystem;

namespace {

const fs::path kFile =
    fs::temp_directory_path() / ("tiny_zero_safetensors_" + std::to_string(getpid()));
struct Cleanup {
  ~Cleanup() { fs::remove(kFile); }
} cleanup;

void write_bytes(const std::string& bytes) { std::ofstream(kFile, std::ios::binary) << bytes; }

std::string read_bytes() {
  std::ifstream file(kFile, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A file by the format's definition: header length, header, data.
std::string make_file(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

/// The message of the std::runtime_error that loading these bytes must throw.
std::string refusal(const std::string& bytes) {
  write_bytes(bytes);
  try {
    load_safetensors(kFile);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "loaded";
}

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a safetensors file written by hand is read") {
  const float numbers[] = {1.5F, -2.0F};
  write_bytes(make_file(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"x":"y"}} )",
      std::string(reinterpret_cast<const char*>(numbers), 8)));
  const auto tensors = load_safetensors(kFile);
  CHECK(tensors.size() == 1);
  CHECK(torch::equal(tensors.at("a"), torch::tensor({1.5F, -2.0F})));
}

TEST_CASE("safetensors: types and shapes come back, bit for bit") {
  const torch::Tensor base =
      torch::randn({4, 6}, at::detail::createCPUGenerator(1), torch::TensorOptions()) * 100;
  std::vector<std::pair<std::string, torch::Tensor>> tensors{{"transposed", base.t()},
                                                             {"scalar", torch::tensor(2.5)},
                                                             {"empty", torch::zeros({0, 3})},
                                                             {"naïve \"name\"", base[0]}};
  for (const auto type :
       {torch::kBFloat16, torch::kFloat16, torch::kFloat64, torch::kInt64, torch::kInt32}) {
    tensors.emplace_back(c10::str(type), base.to(type));
  }
  save_safetensors(kFile, tensors);
  const auto loaded = load_safetensors(kFile);
  fs::remove(kFile);  // the mapping stays
  CHECK(loaded.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CAPTURE(name);
    CHECK((loaded.at(name).scalar_type() == tensor.scalar_type()));
    CHECK(torch::equal(loaded.at(name), tensor));
  }
  CHECK_THROWS_AS(save_safetensors("/no/such/directory/file", tensors), std::runtime_error);
  CHECK_THROWS_AS(load_safetensors("/no/such/directory/file"), std::runtime_error);
}

TEST_CASE("safetensors: a file that lies is refused with the tensor's name") {
  const auto one = [](const std::string& entry) {
    return make_file(R"({"weight":)" + entry + "}", std::string(8, '\0'));
  };
  for (const std::string entry : {
           R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})",   // range too small for the shape
           R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})",   // and too large
           R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})",  // past the end
           R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})",   // backwards
           R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})",  // before the beginning
           R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})",  // 2^64
                                                                                       // elements
           R"({"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]})",  // no int64
           R"({"dtype":"F32","shape":[2],"data_offsets":[0]})",                        // one offset
           R"({"dtype":"F32","data_offsets":[0,8]})",                                  // no shape
           R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})",  // text as shape
           R"({"dtype":"F7","shape":[2],"data_offsets":[0,8]})",   // unknown type
           R"([])",                                                // no object
       }) {
    CAPTURE(entry);
    const std::string message = refusal(one(entry));
    CAPTURE(message);
    CHECK(mentions(message, "weight"));
    CHECK(mentions(message, kFile.string()));
  }
  CHECK(mentions(refusal(one(R"({"dtype":"F7","shape":[2],"data_offsets":[0,8]})")), "F7"));
  const std::string overlap = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  CHECK(mentions(refusal(make_file(overlap, std::string(8, '\0'))), "overlap"));
  CHECK(mentions(refusal(make_file(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})",
                                   std::string(8, '\0'))),
                 "a leaves a gap"));
  CHECK(mentions(refusal(make_file(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})",
                                   std::string(8, '\0'))),
                 "4 bytes that belong to no tensor"));
  CHECK(mentions(refusal(make_file(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                                   R"("a":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})",
                                   std::string(8, '\0'))),
                 "a is listed twice"));
}

TEST_CASE("safetensors: a file that is cut or no such file at all is refused") {
  save_safetensors(kFile, {{"first", torch::ones({3})}, {"last", torch::ones({5})}});
  const std::string whole = read_bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK(refusal(whole.substr(0, size)) != "loaded");
  }
  CHECK(mentions(refusal(whole.substr(0, whole.size() - 1)), "last"));
  CHECK(mentions(refusal(std::string(7, '\xff') + "\x7f{}"), "header"));
  CHECK(mentions(refusal(make_file("{\"a\": ", "")), "JSON"));
  CHECK(mentions(refusal(make_file("[1, 2]", "")), "JSON"));
  CHECK(mentions(refusal(make_file(
                     "{\"a\": " + std::string(200000, '[') + std::string(200000, ']') + "}", "")),
                 "nested too deep"));
  const std::string escape = refusal(make_file(R"({"\u001b[2J\u0000b":{"dtype":"F7"}})", ""));
  CHECK(mentions(escape, "tensor \\x1b[2J\\x00b has the unsupported type F7"));
}

TEST_CASE("safetensors: 2,000 files with changed bytes load or throw, and never crash") {
  save_safetensors(
      kFile, {{"a", torch::ones({2, 3})}, {"b", torch::arange(4)}, {"c", torch::zeros({0, 7})}});
  const std::string whole = read_bytes();
  std::mt19937_64 random(1);
  int64_t loaded = 0, refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = whole;
    for (uint64_t change = random() % 4; change < 4; ++change) {
      const char replacement =
          random() % 2 == 0 ? "0123456789-[]{},\":"[random() % 18] : static_cast<char>(random());
      bytes[random() % bytes.size()] = replacement;
    }
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    write_bytes(bytes);
    try {
      for (const auto& [name, tensor] : load_safetensors(kFile)) {  // reads every byte
        CHECK(tensor.nbytes() <= bytes.size());
        tensor.to(torch::kFloat64).sum().item<double>();
      }
      ++loaded;
    } catch (const std::runtime_error&) {
      ++refused;
    }  // any other exception fails the test
  }
  CHECK(loaded > 100);  // both ways were taken
  CHECK(refused > 100);
}
