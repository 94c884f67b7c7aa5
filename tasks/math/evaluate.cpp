#include "tasks/math/evaluate.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "tiny_zero/random.h"

namespace tiny_zero::math {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr uint64_t kPrimes[] = {2305843009213693921, 2305843009213693693};  // both 1 modulo 4
constexpr uint64_t kRootsOfMinusOne[] = {583529827753931384, 966685122347009555};
constexpr int64_t kMaxFactorial = 3000;
constexpr long double kPi = 3.141592653589793238462643383279502884L, kE = 2.718281828459045235360287471352662498L;
const Complex kUndefined(std::numeric_limits<long double>::quiet_NaN(), 0);

uint64_t hash(std::string_view text, uint64_t seed) {
  uint64_t state = mix_bits(seed);
  for (const char c : text) state = mix_bits(state ^ static_cast<unsigned char>(c));
  return state;
}

/// The integer that an expression without variables is, if it is one below 1e15 and computed without roots.
std::optional<int64_t> integer_value(const Node& node, Work& work) {
  if (has_variable(node)) return std::nullopt;
  const Complex value = approximate(node, 0, false, work);
  const bool integer = value.imag() == 0 && std::abs(value.real()) < 1e15L && std::round(value.real()) == value.real();
  return integer ? std::optional(static_cast<int64_t>(value.real())) : std::nullopt;
}

// ---- Modulo a prime ----

struct Modular {
  uint64_t p;
  uint64_t times(uint64_t a, uint64_t b) const { return static_cast<uint64_t>(static_cast<Wide>(a) * b % p); }
  uint64_t plus(uint64_t a, uint64_t b) const { return (a + b) % p; }
  uint64_t minus(uint64_t a) const { return a == 0 ? 0 : p - a; }
  uint64_t power(uint64_t base, uint64_t exponent) const {
    uint64_t result = 1;
    for (; exponent > 0; exponent >>= 1, base = times(base, base)) {
      if (exponent & 1) result = times(result, base);
    }
    return result;
  }
  std::optional<uint64_t> inverse(uint64_t a) const { return a == 0 ? std::nullopt : std::optional(power(a, p - 2)); }
  uint64_t number(std::string_view digits) const {
    uint64_t value = 0;
    for (const char c : digits) value = plus(times(value, 10), static_cast<uint64_t>(c - '0'));
    return value;
  }
};

// ---- In long double ----

Complex power(Complex base, Complex exponent) {
  if (exponent == Complex(0)) return 1;
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

Complex call(std::string_view name, Complex x) {
  if (name == "sin") return std::sin(x);
  if (name == "cos") return std::cos(x);
  if (name == "tan") return std::tan(x);
  if (name == "sec") return 1.0L / std::cos(x);
  if (name == "csc") return 1.0L / std::sin(x);
  if (name == "cot") return std::cos(x) / std::sin(x);
  if (name == "arcsin") return std::asin(x);
  if (name == "arccos") return std::acos(x);
  if (name == "arctan") return std::atan(x);
  if (name == "sinh") return std::sinh(x);
  if (name == "cosh") return std::cosh(x);
  if (name == "tanh") return std::tanh(x);
  if (name == "ln") return x == Complex(0) ? kUndefined : std::log(x);
  if (name == "abs") return std::abs(x);
  if (name == "floor" && x.imag() == 0) return std::floor(x.real());
  if (name == "ceil" && x.imag() == 0) return std::ceil(x.real());
  return kUndefined;
}

}  // namespace

std::optional<uint64_t> residue(const Node& node, int prime, int point, Work& work) {
  if (--work < 0) return std::nullopt;
  const Modular mod{kPrimes[prime]};
  const auto value = [&](const Node& n) { return residue(n, prime, point, work); };
  const auto& args = node.args;
  switch (node.kind) {
    case Kind::number: {
      const uint64_t digits = mod.number(node.name), ten = mod.power(10, static_cast<uint64_t>(std::abs(node.scale)));
      work -= static_cast<Work>(node.name.size() / 16);
      return mod.times(digits, node.scale < 0 ? *mod.inverse(ten) : ten);
    }
    case Kind::symbol:
      if (node.name == "i") return kRootsOfMinusOne[prime];
      return hash(node.name, static_cast<uint64_t>(1 + prime + 2 * point)) % mod.p;
    case Kind::sum:
    case Kind::product: {
      const bool sum = node.kind == Kind::sum;
      uint64_t total = !sum;
      for (const Node& arg : args) {
        const auto x = value(arg);
        if (!x) return x;
        total = sum ? mod.plus(total, *x) : mod.times(total, *x);
      }
      return total;
    }
    case Kind::negate:
    case Kind::reciprocal: {
      const auto x = value(args[0]);
      if (!x) return x;
      return node.kind == Kind::negate ? mod.minus(*x) : mod.inverse(*x);
    }
    case Kind::power: {
      const auto exponent = integer_value(args[1], work);
      if (!exponent) return std::nullopt;
      const auto base = value(args[0]);
      if (!base || *exponent >= 0)
        return base ? std::optional(mod.power(*base, static_cast<uint64_t>(*exponent))) : base;
      return mod.inverse(mod.power(*base, static_cast<uint64_t>(-*exponent)));
    }
    case Kind::call: {
      if (node.name.starts_with("unknown ")) {  // any function: equal arguments give equal values
        uint64_t state = hash(node.name, static_cast<uint64_t>(prime));
        for (const Node& arg : args) {
          const auto x = value(arg);
          if (!x) return x;
          state = mix_bits(state ^ *x);
        }
        return state % mod.p;
      }
      const bool binomial = node.name == "binom";
      if (!binomial && node.name != "factorial") return std::nullopt;
      const auto k = integer_value(args.back(), work);  // n! = n (n-1) ... 1, and binom(n, k) the first k of these / k!
      const auto n = value(args[0]);
      if (!n || !k || *k < 0 || *k > kMaxFactorial) return std::nullopt;
      work -= *k / 4;
      uint64_t top = 1, bottom = 1;
      for (int64_t j = 0; j < *k; ++j) {
        top = mod.times(top, mod.plus(*n, mod.minus(static_cast<uint64_t>(j))));
        bottom = mod.times(bottom, static_cast<uint64_t>(j + 1));
      }
      return binomial ? mod.times(top, *mod.inverse(bottom)) : top;
    }
    default:
      return std::nullopt;
  }
}

bool same_product(int prime, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
  const Modular mod{kPrimes[prime]};
  return mod.times(a, b) == mod.times(c, d);
}

Complex approximate(const Node& node, int point, bool signs, Work& work) {
  if (--work < 0) return kUndefined;
  const auto value = [&](const Node& n) { return approximate(n, point, signs, work); };
  const auto& args = node.args;
  switch (node.kind) {
    case Kind::number: {
      if (node.scale < 0 && node.name.size() > 12) return kUndefined;
      const std::string digits = node.name + "e" + std::to_string(node.scale);
      long double x = 0;
      work -= static_cast<Work>(digits.size() / 16);
      const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), x);
      return read.ec == std::errc() ? Complex(x) : kUndefined;
    }
    case Kind::symbol: {
      if (node.name == "i") return {0, 1};
      if (node.name == "pi") return kPi;
      if (node.name == "e") return kE;
      const uint64_t bits = hash(node.name, static_cast<uint64_t>(100 + point));
      const long double x = (point < 2 ? 1 : 8) * (0.3L + 3.0L * static_cast<long double>(bits >> 11) * 0x1p-53L);
      return signs && point % 2 == 1 ? -x : x;
    }
    case Kind::sum:
    case Kind::product: {
      const bool sum = node.kind == Kind::sum;
      Complex total = sum ? 0 : 1;
      for (const Node& arg : args) total = sum ? total + value(arg) : total * value(arg);
      return total;
    }
    case Kind::negate:
      return -value(args[0]);
    case Kind::reciprocal: {
      const Complex x = value(args[0]);
      return x.imag() == 0 ? Complex(1 / x.real()) : 1.0L / x;
    }
    case Kind::power:
      return power(value(args[0]), value(args[1]));
    case Kind::call: {
      work -= 4;
      const Complex x = value(args[0]);
      if (node.name == "log") return call("ln", x) / call("ln", value(args[1]));
      if (node.name == "factorial" || node.name == "binom") {
        const Complex k = value(args.back());
        if (k.imag() != 0 || std::round(k.real()) != k.real() || k.real() < 0 || k.real() > kMaxFactorial)
          return kUndefined;
        work -= static_cast<Work>(k.real()) / 4;
        Complex product = 1;
        for (long double j = 0; j < k.real(); ++j) product *= node.name == "binom" ? (x - j) / (j + 1) : x - j;
        return product;
      }
      if (!node.name.starts_with("unknown ")) return call(node.name, x);
      Complex mixed = 0;  // a smooth function of its own for every name
      for (const Node& arg : args)
        mixed = std::sin(mixed + value(arg) * static_cast<long double>(1 + hash(node.name, 7) % 1000) / 500.0L);
      return mixed;
    }
    default:
      return kUndefined;
  }
}

bool has_variable(const Node& node) {
  if (node.kind == Kind::symbol)
    return node.name != "i" && node.name != "e" && node.name != "pi" && node.name != "infty";
  for (const Node& arg : node.args) {
    if (has_variable(arg)) return true;
  }
  return false;
}

bool needs_positive(const Node& node) {
  if (node.kind == Kind::call && (node.name == "ln" || node.name == "log")) return true;
  if (node.kind == Kind::power && !(node.args[1].kind == Kind::number && node.args[1].scale == 0)) return true;
  for (const Node& arg : node.args) {
    if (needs_positive(arg)) return true;
  }
  return false;
}

}  // namespace tiny_zero::math
