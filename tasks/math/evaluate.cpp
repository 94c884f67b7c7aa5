#include <cmath>
#include <limits>
#include <map>

#include "tasks/math/expression.h"
#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kOffsets[] = {31, 259}, kPower = uint64_t{1} << 61;
constexpr uint64_t kPrimes[] = {kPower - kOffsets[0], kPower - kOffsets[1]};  // both 1 modulo 4
constexpr uint64_t kRootsOfMinusOne[] = {583529827753931384, 966685122347009555};
constexpr int64_t kMaxFactorial = 3000;
constexpr size_t kMaxDecimalDigits = 12;

/// a b modulo prime k, where 2^61 equals its offset.
uint64_t times(uint64_t a, uint64_t b, int k) {
  Wide product = static_cast<Wide>(a) * b;
  for (int i = 0; i < 2; ++i) product = (product >> 61) * kOffsets[k] + (product & (kPower - 1));
  return static_cast<uint64_t>(product) % kPrimes[k];
}

Value operator+(const Value& a, const Value& b) {
  Value sum{a.exact && b.exact, {}, a.approximate + b.approximate};
  for (int k = 0; k < 2; ++k) sum.residues[k] = (a.residues[k] + b.residues[k]) % kPrimes[k];
  return sum;
}

Value operator*(const Value& a, const Value& b) {
  Value product{a.exact && b.exact, {}, a.approximate * b.approximate};
  for (int k = 0; k < 2; ++k) product.residues[k] = times(a.residues[k], b.residues[k], k);
  return product;
}

Value integer(int64_t n) {
  const auto size = static_cast<uint64_t>(std::abs(n));
  return {true,
          {n < 0 ? kPrimes[0] - size : size, n < 0 ? kPrimes[1] - size : size},
          static_cast<long double>(n)};
}

uint64_t power(uint64_t base, uint64_t exponent, int k) {
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1, base = times(base, base, k)) {
    if (exponent & 1) result = times(result, base, k);
  }
  return result;
}

/// A power; of a negative base the real root if there is one, as in \sqrt[3]{-8}.
Complex power(Complex base, Complex exponent) {
  const long double b = base.real(), e = exponent.real();
  if (base.imag() != 0 || exponent.imag() != 0) return std::pow(base, exponent);
  for (int odd = 1; b < 0 && odd < 100; odd += 2) {
    const long double top = std::round(e * odd);
    if (std::abs(e * odd - top) < 1e-15L)
      return std::pow(-b, e) * (std::fmod(top, 2.0L) == 0 ? 1 : -1);
  }
  return b < 0 ? std::pow(Complex(b), exponent) : Complex(std::pow(b, e));
}

/// The value of an expression without variables, if it is an integer below 1e15.
std::optional<int64_t> as_integer(const Node& node, const Value& value) {
  const Complex z = value.approximate;
  if (z.imag() != 0 || !(std::abs(z.real()) < 1e15L) || has_variable(node)) return std::nullopt;
  return std::round(z.real()) == z.real() ? std::optional(static_cast<int64_t>(z.real()))
                                          : std::nullopt;
}

/// Exact for an integer n = exponent; below 0 by Fermat, a^(p - 1) = 1.
Value power(const Value& base, const Value& exponent, std::optional<int64_t> n) {
  const bool defined = n && (*n >= 0 || (base.residues[0] != 0 && base.residues[1] != 0));
  Value result{base.exact && defined, {}, power(base.approximate, exponent.approximate)};
  for (int k = 0; k < 2 && n; ++k) {
    const auto size = static_cast<uint64_t>(std::abs(*n));
    result.residues[k] = power(base.residues[k], *n < 0 ? kPrimes[k] - 1 - size : size, k);
  }
  return result;
}

/// The falling factorial x (x - 1) ... of n factors.
Value falling(const Value& x, int64_t n) {
  Value product = integer(1);
  for (int64_t j = 0; j < n; ++j) product = product * (x + integer(-j));
  return product;
}

Value number(const Node& node) {
  const bool negative = node.name[0] == '-',
             rounded = node.scale < 0 && node.name.size() > kMaxDecimalDigits;
  Value value = integer(0);
  for (const char c : node.name.substr(negative)) value = value * integer(10) + integer(c - '0');
  if (node.scale != 0) value = value * power(integer(10), integer(node.scale), node.scale);
  if (rounded) value.approximate = std::numeric_limits<long double>::quiet_NaN();
  return negative ? value * integer(-1) : value;
}

Value symbol(const std::string& name, int point, bool signs) {
  const auto bits = static_cast<long double>(mix_text(name, static_cast<uint64_t>(point)) >> 11);
  const long double x =
      (signs && point % 2 == 1 ? -1 : 1) * (point < 2 ? 1 : 8) * (0.3L + 3 * bits * 0x1p-53L);
  Value value{
      true, {mix_text(name, kPrimes[0]) % kPrimes[0], mix_text(name, kPrimes[1]) % kPrimes[1]}, x};
  if (name == "i") value = {true, {kRootsOfMinusOne[0], kRootsOfMinusOne[1]}, {0, 1}};
  if (name == "pi") value.approximate = std::acos(-1.0L);
  if (name == "e") value.approximate = std::exp(1.0L);
  return value;
}

Value call(const std::string& name, const Value& x) {
  using Function = Complex (*)(const Complex&);
  static const std::map<std::string, Function> kFunctions = {
      {"sin", std::sin},     {"cos", std::cos},     {"tan", std::tan}, {"arcsin", std::asin},
      {"arccos", std::acos}, {"arctan", std::atan}, {"ln", std::log}};
  const Complex z = x.approximate;
  if (const auto found = kFunctions.find(name); found != kFunctions.end())
    return {false, {}, found->second(z)};
  if (name == "sec") return {false, {}, 1.0L / std::cos(z)};
  if (name == "csc") return {false, {}, 1.0L / std::sin(z)};
  if (name == "cot") return {false, {}, 1.0L / std::tan(z)};
  if (name == "abs") return {false, {}, std::abs(z)};
  if (name == "floor" && z.imag() == 0) return {false, {}, std::floor(z.real())};
  if (name == "ceil" && z.imag() == 0) return {false, {}, std::ceil(z.real())};
  if (!name.starts_with("unknown ")) return {};
  Value value{
      x.exact, {}, std::sin(z * (1.0L + static_cast<long double>(mix_text(name, 0) % 1000) / 500))};
  for (int k = 0; k < 2; ++k)
    value.residues[k] = mix_bits(mix_text(name, 0) ^ x.residues[k]) % kPrimes[k];
  return value;
}

}  // namespace

Value evaluate(const Node& node, int point, bool signs, Work& work) {
  if (--work < 0) return {};
  if (node.kind == Kind::number) return number(node);
  if (node.kind == Kind::symbol) return symbol(node.name, point, signs);
  if (node.kind > Kind::call || node.args.empty()) return {};
  Value value = evaluate(node.args[0], point, signs, work);
  if (node.kind == Kind::text) return value;
  if (node.kind == Kind::call && node.name != "factorial" && node.name != "binom")
    return call(node.name, value);
  if (node.kind == Kind::sum || node.kind == Kind::product) {
    for (size_t i = 1; i < node.args.size(); ++i) {
      const Value next = evaluate(node.args[i], point, signs, work);
      value = node.kind == Kind::sum ? value + next : value * next;
    }
    return value;
  }
  const Value last = evaluate(node.args.back(), point, signs, work);
  const auto n = as_integer(node.args.back(), last);
  if (node.kind == Kind::power) return power(value, last, n);
  if (!n || *n < 0 || *n > kMaxFactorial) return {};
  work -= 8 * *n;  // n! = n (n-1) ... 1; binom(x, n): n factors from x down, over n!
  const Value product = falling(value, *n);
  return node.name == "binom" ? product * power(falling(last, *n), integer(-1), -1) : product;
}

}  // namespace tiny_zero::math
