#pragma once
// What the tests of whole programs share: a directory of their own, and what is in its files.

#include <doctest/doctest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

/// A directory for the tests of one file, made at the first call and removed at the end.
static const std::filesystem::path& workplace() {
  static const struct Workplace {
    ~Workplace() { std::filesystem::remove_all(path); }
    std::filesystem::path path = [] {
      std::string name = (std::filesystem::temp_directory_path() / "tiny_zero_XXXXXX").string();
      REQUIRE(mkdtemp(name.data()) != nullptr);
      return std::filesystem::path(name);
    }();
  } place;
  return place.path;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
