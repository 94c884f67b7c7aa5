#include "tasks/math/evaluate.h"

#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <unordered_map>

#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kPrimes[] = {2305843009213693921, 2305843009213693693};  // both 1 modulo 4
constexpr uint64_t kRootsOfMinusOne[] = {583529827753931384, 966685122347009555};
constexpr int64_t kMaxFactorial = 3000;
constexpr size_t kMaxDecimalDigits = 12;
const Complex kUndefined(std::numeric_limits<long double>::quiet_NaN(), 0);

uint64_t hash(std::string_view text, uint64_t seed) {
  uint64_t state = mix_bits(seed);
  for (const char c : text) state = mix_bits(state ^ static_cast<unsigned char>(c));
  return state;
}

/// The integer below 1e15 that an expression without variables is, if it is one.
std::optional<int64_t> integer_value(const Node& node, Work& work) {
  if (has_variable(node)) return std::nullopt;
  const Complex value = approximate(node, /*point=*/0, /*signs=*/false, work);
  const bool integer = value.imag() == 0 && std::abs(value.real()) < 1e15L && std::round(value.real()) == value.real();
  return integer ? std::optional(static_cast<int64_t>(value.real())) : std::nullopt;
}

/// Arithmetic modulo a prime; nothing is the value of what is undefined or no rational function.
struct Exact {
  using Value = std::optional<uint64_t>;
  int prime;
  Work& work;

  uint64_t p() const { return kPrimes[prime]; }
  Value integer(int64_t n) const { return n < 0 ? p() - static_cast<uint64_t>(-n) : static_cast<uint64_t>(n); }
  Value add(Value a, Value b) const { return a && b ? Value((*a + *b) % p()) : Value(); }
  Value multiply(Value a, Value b) const {
    return a && b ? Value(static_cast<uint64_t>(static_cast<Wide>(*a) * *b % p())) : Value();
  }
  Value raise(Value base, int64_t exponent) const {
    if (exponent < 0 && base == uint64_t{0}) return {};
    auto bits = static_cast<uint64_t>(std::abs(exponent));
    if (exponent < 0) base = raise(base, static_cast<int64_t>(p() - 2));  // Fermat's inverse
    Value result = 1;
    for (; bits > 0; bits >>= 1, base = multiply(base, base)) result = bits & 1 ? multiply(result, base) : result;
    return result;
  }
  Value number(const Node& node) const {
    Value value = 0;
    for (const char c : node.name) value = c == '-' ? value : add(multiply(value, 10), static_cast<uint64_t>(c - '0'));
    return multiply(multiply(value, raise(10, node.scale)), integer(node.name[0] == '-' ? -1 : 1));
  }
  Value symbol(const std::string& name) const {
    return name == "i" ? kRootsOfMinusOne[prime] : hash(name, static_cast<uint64_t>(prime)) % p();
  }
  Value power(Value base, const Node& exponent) const {
    const auto n = integer_value(exponent, work);
    return n ? raise(base, *n) : Value();
  }
  Value call(const std::string& name, Value x) const {  // any f: equal arguments give equal values
    return x && name.starts_with("unknown ") ? Value(mix_bits(hash(name, 0) ^ *x) % p()) : Value();
  }
};

/// Complex numbers in long double; NaN is the value of what is undefined.
struct Approximate {
  using Value = Complex;
  int point;
  bool signs;
  Work& work;

  Value integer(int64_t n) const { return static_cast<long double>(n); }
  Value add(Value a, Value b) const { return a + b; }
  Value multiply(Value a, Value b) const { return a * b; }
  Value raise(Value base, Value exponent) const {
    if (exponent == Value(0)) return 1;
    if (base.imag() == 0) base = base.real();  // not -9 - 0i, whose root is -3i
    if (exponent.imag() != 0 || base.imag() != 0) return std::pow(base, exponent);
    const long double b = base.real(), e = exponent.real();
    if (b >= 0 || std::round(e) == e) return std::pow(b, e);
    for (int odd = 3; odd < 100; odd += 2) {  // the real root of a negative number, as in \sqrt[3]{-8}
      const long double top = std::round(e * odd);
      if (std::abs(e * odd - top) < 1e-15L) return std::pow(-b, e) * (std::fmod(top, 2.0L) == 0 ? 1 : -1);
    }
    return std::pow(base, exponent);
  }
  Value number(const Node& node) const {
    if (node.scale < 0 && node.name.size() > kMaxDecimalDigits) return kUndefined;
    const std::string digits = node.name + "e" + std::to_string(node.scale);
    long double x = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), x);
    return read.ec == std::errc() ? Value(x) : kUndefined;
  }
  Value symbol(const std::string& name) const {
    if (name == "i") return {0, 1};
    if (name == "pi") return 3.141592653589793238462643383279502884L;
    if (name == "e") return 2.718281828459045235360287471352662498L;
    const auto bits = static_cast<long double>(hash(name, static_cast<uint64_t>(100 + point)) >> 11);
    return (signs && point % 2 == 1 ? -1 : 1) * (point < 2 ? 1 : 8) * (0.3L + 3 * bits * 0x1p-53L);
  }
  Value power(Value base, const Node& exponent) const { return raise(base, approximate(exponent, point, signs, work)); }
  Value call(const std::string& name, Value x) const {
    static const std::unordered_map<std::string_view, std::function<Value(Value)>> kFunctions = {
        {"sin", [](Value z) { return std::sin(z); }},
        {"cos", [](Value z) { return std::cos(z); }},
        {"tan", [](Value z) { return std::tan(z); }},
        {"sec", [](Value z) { return 1.0L / std::cos(z); }},
        {"csc", [](Value z) { return 1.0L / std::sin(z); }},
        {"cot", [](Value z) { return std::cos(z) / std::sin(z); }},
        {"arcsin", [](Value z) { return std::asin(z); }},
        {"arccos", [](Value z) { return std::acos(z); }},
        {"arctan", [](Value z) { return std::atan(z); }},
        {"ln", [](Value z) { return z == Value(0) ? kUndefined : std::log(z); }},
        {"abs", [](Value z) { return Value(std::abs(z)); }},
        {"floor", [](Value z) { return z.imag() == 0 ? std::floor(z.real()) : kUndefined; }},
        {"ceil", [](Value z) { return z.imag() == 0 ? std::ceil(z.real()) : kUndefined; }}};
    if (name.starts_with("unknown ")) return std::sin(x * static_cast<long double>(1 + hash(name, 0) % 1000) / 500.0L);
    const auto function = kFunctions.find(name);
    return function == kFunctions.end() ? kUndefined : function->second(x);
  }
};

template <class Field>
typename Field::Value evaluate(const Node& node, const Field& field) {
  using Value = typename Field::Value;
  const auto undefined = [&] { return field.raise(field.integer(0), -1); };
  field.work -= 1 + static_cast<Work>(node.name.size() / 16);
  if (field.work < 0 || (node.args.empty() && node.kind > Kind::symbol)) return undefined();
  if (node.kind == Kind::number) return field.number(node);
  if (node.kind == Kind::symbol) return field.symbol(node.name);
  Value value = evaluate(node.args[0], field);
  if (node.kind == Kind::power) return field.power(value, node.args[1]);
  if (node.kind == Kind::sum || node.kind == Kind::product) {
    for (size_t i = 1; i < node.args.size(); ++i) {
      const Value next = evaluate(node.args[i], field);
      value = node.kind == Kind::sum ? field.add(value, next) : field.multiply(value, next);
    }
    return value;
  }
  if (node.kind != Kind::call) return undefined();
  if (node.name != "factorial" && node.name != "binom") return field.call(node.name, value);
  const auto k = integer_value(node.args.back(), field.work);  // n! = n (n-1) ... 1; binom(n, k): k of these / k!
  if (!k || *k < 0 || *k > kMaxFactorial) return undefined();
  field.work -= *k / 4;
  Value top = field.integer(1), bottom = top;
  for (int64_t j = 0; j < *k; ++j) {
    top = field.multiply(top, field.add(value, field.integer(-j)));
    bottom = field.multiply(bottom, field.integer(j + 1));
  }
  return node.name == "binom" ? field.multiply(top, field.raise(bottom, -1)) : top;
}

}  // namespace

std::optional<uint64_t> residue(const Node& node, int prime, Work& work) { return evaluate(node, Exact{prime, work}); }

Complex approximate(const Node& node, int point, bool signs, Work& work) {
  return evaluate(node, Approximate{point, signs, work});
}

}  // namespace tiny_zero::math
