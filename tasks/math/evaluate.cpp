#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "tasks/math/expression.h"
#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kPrimes[] = {2305843009213693921, 2305843009213693693};  // both 1 modulo 4
constexpr uint64_t kRootsOfMinusOne[] = {583529827753931384, 966685122347009555};
constexpr int64_t kMaxFactorial = 3000;
constexpr size_t kMaxDecimalDigits = 12;

uint64_t hash(std::string_view text, uint64_t seed) {
  for (const char c : text) seed = mix_bits(seed ^ static_cast<unsigned char>(c));
  return seed;
}

uint64_t times(uint64_t a, uint64_t b, uint64_t p) { return static_cast<uint64_t>(static_cast<Wide>(a) * b % p); }
uint64_t residue(int64_t n, uint64_t p) { return n < 0 ? p - static_cast<uint64_t>(-n) : static_cast<uint64_t>(n); }

Value operator+(const Value& a, const Value& b) {
  Value sum{a.exact && b.exact, {}, a.approximate + b.approximate};
  for (int k = 0; k < 2; ++k) sum.residues[k] = (a.residues[k] + b.residues[k]) % kPrimes[k];
  return sum;
}

Value operator*(const Value& a, const Value& b) {
  Value product{a.exact && b.exact, {}, a.approximate * b.approximate};
  for (int k = 0; k < 2; ++k) product.residues[k] = times(a.residues[k], b.residues[k], kPrimes[k]);
  return product;
}

Value integer(int64_t n) {
  return {true, {residue(n, kPrimes[0]), residue(n, kPrimes[1])}, static_cast<long double>(n)};
}

uint64_t power(uint64_t base, int64_t exponent, uint64_t p) {
  if (exponent < 0) return power(power(base, static_cast<int64_t>(p - 2), p), -exponent, p);  // Fermat's inverse
  uint64_t result = 1;
  for (; exponent > 0; exponent >>= 1, base = times(base, base, p))
    result = exponent & 1 ? times(result, base, p) : result;
  return result;
}

/// Of a negative number the real root if there is one, as in \sqrt[3]{-8}.
Complex power(Complex base, Complex exponent) {
  const long double b = base.real(), e = exponent.real();
  if (base.imag() != 0 || exponent.imag() != 0) return std::pow(base, exponent);
  if (b >= 0) return std::pow(b, e);
  for (int odd = 1; odd < 100; odd += 2) {
    const long double top = std::round(e * odd);
    if (std::abs(e * odd - top) < 1e-15L) return std::pow(-b, e) * (std::fmod(top, 2.0L) == 0 ? 1 : -1);
  }
  return std::pow(Complex(b), exponent);
}

Value number(const Node& node) {
  const std::string digits = node.name + "e" + std::to_string(node.scale);
  long double x = std::numeric_limits<long double>::quiet_NaN();
  const bool rounded = node.scale < 0 && node.name.size() > kMaxDecimalDigits, negative = node.name[0] == '-';
  if (!rounded) std::from_chars(digits.data(), digits.data() + digits.size(), x);
  Value value{true, {}, x};
  for (int k = 0; k < 2; ++k) {
    const uint64_t p = kPrimes[k];
    for (const char c : node.name) {
      if (c != '-') value.residues[k] = (times(value.residues[k], 10, p) + static_cast<uint64_t>(c - '0')) % p;
    }
    value.residues[k] = times(times(value.residues[k], power(10, node.scale, p), p), residue(negative ? -1 : 1, p), p);
  }
  return value;
}

Value symbol(const std::string& name, int point, bool signs) {
  const auto bits = static_cast<long double>(hash(name, static_cast<uint64_t>(point)) >> 11);
  const long double x = (signs && point % 2 == 1 ? -1 : 1) * (point < 2 ? 1 : 8) * (0.3L + 3 * bits * 0x1p-53L);
  Value value{true, {hash(name, kPrimes[0]) % kPrimes[0], hash(name, kPrimes[1]) % kPrimes[1]}, x};
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
  if (const auto found = kFunctions.find(name); found != kFunctions.end()) return {false, {}, found->second(z)};
  if (name == "sec") return {false, {}, 1.0L / std::cos(z)};
  if (name == "csc") return {false, {}, 1.0L / std::sin(z)};
  if (name == "cot") return {false, {}, 1.0L / std::tan(z)};
  if (name == "abs") return {false, {}, std::abs(z)};
  if (name == "floor" && z.imag() == 0) return {false, {}, std::floor(z.real())};
  if (name == "ceil" && z.imag() == 0) return {false, {}, std::ceil(z.real())};
  if (!name.starts_with("unknown ")) return {};
  Value value{x.exact, {}, std::sin(z * (1.0L + static_cast<long double>(hash(name, 0) % 1000) / 500))};
  for (int k = 0; k < 2; ++k) value.residues[k] = mix_bits(hash(name, 0) ^ x.residues[k]) % kPrimes[k];
  return value;
}

/// The integer below 1e15 that an expression without variables is, if it is one.
std::optional<int64_t> as_integer(const Node& node, const Value& value) {
  const Complex z = value.approximate;
  if (has_variable(node) || z.imag() != 0 || !(std::abs(z.real()) < 1e15L)) return std::nullopt;
  return std::round(z.real()) == z.real() ? std::optional(static_cast<int64_t>(z.real())) : std::nullopt;
}

}  // namespace

Value evaluate(const Node& node, int point, bool signs, Work& work) {
  if (--work < 0) return {};
  if (node.kind == Kind::number) return number(node);
  if (node.kind == Kind::symbol) return symbol(node.name, point, signs);
  if (node.kind > Kind::call || node.args.empty()) return {};
  Value value = evaluate(node.args[0], point, signs, work);
  if (node.kind == Kind::call && node.name != "factorial" && node.name != "binom") return call(node.name, value);
  if (node.kind == Kind::sum || node.kind == Kind::product) {
    for (size_t i = 1; i < node.args.size(); ++i) {
      const Value next = evaluate(node.args[i], point, signs, work);
      value = node.kind == Kind::sum ? value + next : value * next;
    }
    return value;
  }
  const Value last = evaluate(node.args.back(), point, signs, work);
  const auto n = as_integer(node.args.back(), last);
  if (node.kind == Kind::power) {
    const bool defined = n && (*n >= 0 || (value.residues[0] != 0 && value.residues[1] != 0));
    Value result{value.exact && defined, {}, power(value.approximate, last.approximate)};
    for (int k = 0; k < 2; ++k) result.residues[k] = power(value.residues[k], n.value_or(0), kPrimes[k]);
    return result;
  }
  if (!n || *n < 0 || *n > kMaxFactorial) return {};
  work -= *n / 4;
  Value result = integer(1);  // n! = n (n-1) ... 1; binom(x, n): n factors from x down, over n!
  for (int64_t j = 0; j < *n; ++j) {
    result = result * (value + integer(-j));
    if (node.name == "binom") {
      const auto inverse = [&](int k) { return power(static_cast<uint64_t>(j + 1), -1, kPrimes[k]); };
      result = result * Value{true, {inverse(0), inverse(1)}, 1.0L / static_cast<long double>(j + 1)};
    }
  }
  return result;
}

}  // namespace tiny_zero::math
