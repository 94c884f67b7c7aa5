#pragma once
// Values of an expression at random points with a fixed seed, in two kinds of arithmetic.

#include <complex>
#include <cstdint>
#include <optional>

#include "tasks/math/parse.h"

namespace tiny_zero::math {

using Complex = std::complex<long double>;

/// What a comparison may still cost, in visited nodes; below 0 nothing has a value any more.
using Work = int64_t;

/// The value modulo a 61-bit prime (`prime` is 0 or 1), variables, pi, e and infinity being random residues and i a
/// root of -1. Exact: expressions of + - * /, integer powers, factorials and binomials that differ as rational
/// functions agree with a probability below 1e-14. Nothing if there is a root, logarithm, ... or a division by zero in
/// it.
std::optional<uint64_t> residue(const Node& node, int prime, Work& work);

/// The value in long double, variables being random reals of [0.3, 3.3], from point 2 on of [2.4, 26.4], and below 0 at
/// odd points if `signs`. Not finite where the value is undefined, beyond long double, or rests on a decimal of more
/// than 12 digits, which is a rounded value and as such equals only what residue() can tell.
Complex approximate(const Node& node, int point, bool signs, Work& work);

}  // namespace tiny_zero::math
