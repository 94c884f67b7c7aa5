// Fuzzes the grader of MATH: mutates and joins the answers of tests/data/fuzz_math.txt and checks
// what must always hold, under sanitizers:
//   make fuzz SECONDS=3600
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "tasks/math/grader.h"

using namespace tiny_zero::math;

namespace {

std::mt19937_64 random_bits;
size_t below(size_t n) { return n == 0 ? 0 : random_bits() % n; }

/// What grammar-blind mutations seldom hit.
const std::vector<std::string> kPieces = {"\\frac",
                                          "\\frac12",
                                          "{",
                                          "}",
                                          "\\{",
                                          "\\}",
                                          "(",
                                          ")",
                                          "[",
                                          "]",
                                          "|",
                                          "\\left",
                                          "\\right",
                                          "^",
                                          "_",
                                          "^{",
                                          "^\\circ",
                                          "\\sqrt",
                                          "\\sqrt[3]",
                                          "\\pm",
                                          "\\mp",
                                          "\\cup",
                                          "\\in",
                                          "\\infty",
                                          "=",
                                          "<",
                                          "\\le",
                                          ">",
                                          "\\ne",
                                          ",",
                                          ":",
                                          "\\text{",
                                          "\\text{ and }",
                                          "\\text{ cm}^2",
                                          " or ",
                                          "\\begin{pmatrix}",
                                          "\\end{pmatrix}",
                                          "&",
                                          "\\\\",
                                          "!",
                                          "\\binom",
                                          "\\choose",
                                          "\\sin",
                                          "\\log_",
                                          "\\ln",
                                          "e^",
                                          "i",
                                          "\\pi",
                                          "\\overline{",
                                          "0.",
                                          "1e9",
                                          "1e999999",
                                          "999999999999999999999",
                                          "10000",
                                          "-",
                                          "+",
                                          "*",
                                          "/",
                                          "\\mid",
                                          "\\phantom",
                                          "\\,",
                                          ",\\!",
                                          "{,}",
                                          "f(",
                                          "x",
                                          "\\boxed{",
                                          "\\mathbb{R}",
                                          "\\lfloor",
                                          "\\rfloor",
                                          "\xe2\x88\x9a"};

std::string mutated(std::string text, const std::vector<std::string>& seeds) {
  for (size_t changes = 1 + below(6); changes > 0; --changes) {
    const size_t at = below(text.size() + 1),
                 count = below(text.size() - std::min(at, text.size()) + 1);
    switch (below(8)) {
      case 0:
        text.erase(at, 1 + below(4));
        break;
      case 1:
        text.insert(at, kPieces[below(kPieces.size())]);
        break;
      case 2:
        text.insert(at, 1, static_cast<char>(below(256)));
        break;
      case 3:
        text.insert(at, text.substr(at, count));
        break;
      case 4:
        text.insert(at, seeds[below(seeds.size())]);
        break;
      case 5:
        text = text.substr(0, at);
        break;
      case 6:
        if (!text.empty()) text[below(text.size())] = static_cast<char>(below(256));
        break;
      default:
        for (size_t times = below(200); times > 0 && text.size() < 3000; --times) {
          text.insert(at, kPieces[changes * 7 % kPieces.size()]);
        }
    }
  }
  return text.substr(0, 4000);
}

void require(bool holds, const char* what, const std::string& a, const std::string& b) {
  if (holds) return;
  std::cerr << what << "\nreference: " << a << "\nanswer:    " << b << std::endl;
  std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: fuzz_math SEEDS SECONDS [RANDOM_SEED]\n";
    return 2;
  }
  std::ifstream file(argv[1]);
  std::vector<std::string> seeds;
  for (std::string line; std::getline(file, line);) seeds.push_back(line);
  random_bits.seed(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  int64_t pairs = 0, read = 0, equal = 0;
  double slowest = 0;
  std::string slowest_pair;
  for (; seconds() < std::atof(argv[2]); ++pairs) {
    const std::string& seed = seeds[below(seeds.size())];
    const std::string a = below(2) == 0 ? seed : mutated(seed, seeds),
                      b = mutated(below(2) == 0 ? a : seed, seeds);
    const std::clock_t before = std::clock();
    const Verdict verdict = compare(a, b);
    const double took =
        static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;  // of the processor
    if (took > slowest) {
      slowest = took;
      slowest_pair = a + "   and   " + b;
    }
    const Verdict self = compare(a, a);
    require(verdict.equal == compare(a, b).equal, "not deterministic", a, b);
    require(verdict.equal == (verdict.reason == "equal"), "the reason contradicts", a, b);
    if (verdict.equal)
      require(self.reason != "the right answer cannot be read", "equal to what cannot be read", a,
              b);
    const std::string response =
        "<answer>" + a + "\\boxed{" + b + "}</answer>" + (below(2) == 0 ? a : "");
    for (const auto& answer : {extract_answer(response), extract_boxed(a + b),
                               extract_last_number(b), extract_tagged(b)}) {
      if (answer) require(!answer->empty(), "an empty answer", a, b);
    }
    read += self.equal;
    equal += verdict.equal;
  }
  std::cout << pairs << " pairs, " << read << " readable references, " << equal
            << " equal, slowest " << slowest * 1e3 << " ms: " << slowest_pair.substr(0, 300)
            << "\nnothing found\n";
}
