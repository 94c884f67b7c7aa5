// Values of an expression at random points with a fixed seed, in two kinds of arithmetic.
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "tasks/math/expression.h"
#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int64_t kMaxFactorial = 3000;
constexpr size_t kMaxDecimalDigits = 12;

uint64_t hash(std::string_view text, uint64_t seed) {
  for (const char c : text) seed = mix_bits(seed ^ static_cast<unsigned char>(c));
  return seed;
}

/// The integer below 1e15 that an expression without variables is, if it is one.
std::optional<int64_t> integer_value(const Node& node, Work& work) {
  const Complex value = has_variable(node) ? Complex(0.5L) : approximate(node, /*point=*/0, /*signs=*/false, work);
  const bool integer = value.imag() == 0 && std::abs(value.real()) < 1e15L && std::round(value.real()) == value.real();
  return integer ? std::optional(static_cast<int64_t>(value.real())) : std::nullopt;
}

/// Arithmetic modulo the prime p, which is 1 modulo 4; nothing is the value of what is undefined or not rational.
struct Exact {
  using Value = std::optional<uint64_t>;
  uint64_t p, root_of_minus_one;
  Work& work;

  Value integer(int64_t n) const { return n < 0 ? p - static_cast<uint64_t>(-n) : static_cast<uint64_t>(n); }
  Value add(Value a, Value b) const { return a && b ? Value((*a + *b) % p) : Value(); }
  Value multiply(Value a, Value b) const {
    return a && b ? Value(static_cast<uint64_t>(static_cast<Wide>(*a) * *b % p)) : Value();
  }
  Value raise(Value base, int64_t exponent) const {
    if (exponent < 0) base = base == uint64_t{0} ? Value() : raise(base, static_cast<int64_t>(p - 2));  // the inverse
    Value result = 1;
    for (auto bits = static_cast<uint64_t>(std::abs(exponent)); bits > 0; bits >>= 1, base = multiply(base, base)) {
      if (bits & 1) result = multiply(result, base);
    }
    return result;
  }
  Value number(const Node& node) const {
    Value value = 0;
    for (const char c : node.name) value = c == '-' ? value : add(multiply(value, 10), integer(c - '0'));
    return multiply(multiply(value, raise(10, node.scale)), integer(node.name[0] == '-' ? -1 : 1));
  }
  Value symbol(const std::string& name) const { return name == "i" ? root_of_minus_one : hash(name, p) % p; }
  Value power(Value base, const Node& exponent) const {
    const auto n = integer_value(exponent, work);
    return n ? raise(base, *n) : Value();
  }
  Value call(const std::string& name, Value x) const {  // any f: equal arguments give equal values
    return x && name.starts_with("unknown ") ? Value(mix_bits(hash(name, p) ^ *x) % p) : Value();
  }
};

/// Complex numbers in long double; what is not finite is undefined.
struct Approximate {
  using Value = Complex;
  int point;
  bool signs;
  Work& work;

  Value integer(int64_t n) const { return static_cast<long double>(n); }
  Value add(Value a, Value b) const { return a + b; }
  Value multiply(Value a, Value b) const { return a * b; }
  Value raise(Value base, Value exponent) const {
    const long double b = base.real(), e = exponent.real();
    if (base.imag() != 0 || exponent.imag() != 0) return std::pow(base, exponent);
    if (b >= 0) return std::pow(b, e);
    for (int odd = 1; odd < 100; odd += 2) {  // of a negative number the real root, as in \sqrt[3]{-8}
      const long double top = std::round(e * odd);
      if (std::abs(e * odd - top) < 1e-15L) return std::pow(-b, e) * (std::fmod(top, 2.0L) == 0 ? 1 : -1);
    }
    return std::pow(Value(b), exponent);
  }
  Value number(const Node& node) const {
    const std::string digits = node.name + "e" + std::to_string(node.scale);
    long double x = std::numeric_limits<long double>::quiet_NaN();
    const bool rounded = node.scale < 0 && node.name.size() > kMaxDecimalDigits;
    if (!rounded) std::from_chars(digits.data(), digits.data() + digits.size(), x);
    return x;
  }
  Value symbol(const std::string& name) const {
    if (name == "i") return {0, 1};
    if (name == "pi") return std::acos(-1.0L);
    if (name == "e") return std::exp(1.0L);
    const auto bits = static_cast<long double>(hash(name, static_cast<uint64_t>(point)) >> 11);
    return (signs && point % 2 == 1 ? -1 : 1) * (point < 2 ? 1 : 8) * (0.3L + 3 * bits * 0x1p-53L);
  }
  Value power(Value base, const Node& exponent) const { return raise(base, approximate(exponent, point, signs, work)); }
  Value call(const std::string& name, Value x) const {
    using Function = Value (*)(const Value&);
    static const std::map<std::string, Function> kFunctions = {
        {"sin", std::sin},     {"cos", std::cos},     {"tan", std::tan}, {"arcsin", std::asin},
        {"arccos", std::acos}, {"arctan", std::atan}, {"ln", std::log}};
    if (const auto found = kFunctions.find(name); found != kFunctions.end()) return found->second(x);
    if (name == "abs") return std::abs(x);
    if (name == "floor" && x.imag() == 0) return std::floor(x.real());
    if (name == "ceil" && x.imag() == 0) return std::ceil(x.real());
    const auto factor = static_cast<long double>(hash(name, 0) % 1000);
    return name.starts_with("unknown ") ? std::sin(x * (1 + factor / 500)) : raise(0, -1);
  }
};

template <class Field>
typename Field::Value evaluate(const Node& node, const Field& field) {
  using Value = typename Field::Value;
  const Value undefined = field.raise(field.integer(0), -1);
  if (--field.work < 0) return undefined;
  if (node.kind == Kind::number) return field.number(node);
  if (node.kind == Kind::symbol) return field.symbol(node.name);
  if (node.kind > Kind::call || node.args.empty()) return undefined;
  Value value = evaluate(node.args[0], field);
  if (node.kind == Kind::power) return field.power(value, node.args[1]);
  for (size_t i = 1; i < node.args.size() && node.kind != Kind::call; ++i) {
    const Value next = evaluate(node.args[i], field);
    value = node.kind == Kind::sum ? field.add(value, next) : field.multiply(value, next);
  }
  if (node.kind != Kind::call) return value;
  if (node.name != "factorial" && node.name != "binom") return field.call(node.name, value);
  const auto k = integer_value(node.args.back(), field.work);  // n! = n (n-1) ... 1; binom(n, k): k of these / k!
  if (!k || *k < 0 || *k > kMaxFactorial) return undefined;
  field.work -= *k / 4;
  Value top = field.integer(1), bottom = top;
  for (int64_t j = 0; j < *k; ++j) {
    top = field.multiply(top, field.add(value, field.integer(-j)));
    bottom = field.multiply(bottom, field.integer(j + 1));
  }
  return node.name == "binom" ? field.multiply(top, field.raise(bottom, -1)) : top;
}

}  // namespace

std::optional<uint64_t> residue(const Node& node, int prime, Work& work) {
  if (prime == 0) return evaluate(node, Exact{2305843009213693921, 583529827753931384, work});
  return evaluate(node, Exact{2305843009213693693, 966685122347009555, work});
}

Complex approximate(const Node& node, int point, bool signs, Work& work) {
  return evaluate(node, Approximate{point, signs, work});
}

}  // namespace tiny_zero::math
