#pragma once
// Decides whether two final answers in LaTeX are the same mathematical object. README.md tells what counts as the same.

#include <string_view>

namespace tiny_zero::math {

struct Verdict {
  bool equal = false;
  std::string_view reason;  // "equal", "different", "the reference cannot be read" or "the answer cannot be read"
};

/// Compares a model's answer with the reference. Pure; never throws; what cannot be read equals nothing. Time and
/// memory are bounded: answers beyond 4,096 bytes are not read, and a comparison that takes too long finds "different".
/// Not symmetric in one place: an answer "a+b=5" gives the value asked for, 5, but a reference "a+b=5" is an equation.
Verdict compare(std::string_view reference, std::string_view answer);

inline bool equivalent(std::string_view reference, std::string_view answer) { return compare(reference, answer).equal; }

/// Whether the grader can judge by this reference: it is read and equals itself.
inline bool readable(std::string_view reference) { return equivalent(reference, reference); }

}  // namespace tiny_zero::math
