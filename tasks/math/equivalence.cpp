#include "tasks/math/equivalence.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "tasks/math/evaluate.h"
#include "tasks/math/parse.h"

namespace tiny_zero::math {
namespace {

constexpr Work kMaxWork = 100000;
constexpr int kPoints = 4, kMaxSigns = 4;
constexpr long double kTolerance = 1e-14L, kZero = 1e-16L;

Node minus(const Node& a, const Node& b) { return {Kind::sum, "", {a, {Kind::negate, "", {b}}}}; }

bool is_collection(const Node& node) { return node.kind == Kind::set || node.kind == Kind::list; }

/// How many \pm are in it; -1 if there is a \mp, which ties all signs together.
int count_signs(const Node& node) {
  int count = node.kind == Kind::plus_minus ? (node.name == "+" ? 1 : -1000) : 0;
  for (const Node& arg : node.args) count += count_signs(arg);
  return std::max(count, -1000);
}

/// Writes - for the \pm whose bit is set, and + for the others; \mp is the opposite of bit 0.
void choose_signs(Node& node, unsigned bits, bool tied, int& next) {
  for (Node& arg : node.args) choose_signs(arg, bits, tied, next);
  if (node.kind != Kind::plus_minus) return;
  const bool negative = ((bits >> (tied ? 0 : next)) & 1) != (node.name == "-");
  node.kind = negative ? Kind::negate : Kind::sum;
  ++next;
}

/// What may stand left of "=" for the value on the right: in a reference x, AB, f(x) or (x,y); in an answer any
/// expression without numbers, such as a + b.
bool is_name(const Node& node, bool lenient) {
  switch (node.kind) {
    case Kind::symbol:
      return has_variable(node);
    case Kind::text:
      return true;
    case Kind::call:
      return node.name.starts_with("unknown ");
    case Kind::sum:
    case Kind::negate:
    case Kind::reciprocal:
      if (!lenient) return false;
      [[fallthrough]];
    case Kind::product:
    case Kind::tuple:
    case Kind::ratio:
      return std::all_of(node.args.begin(), node.args.end(), [&](const Node& n) { return is_name(n, lenient); });
    default:
      return false;
  }
}

/// The value of "name = value", "value = name" or "name \in value"; nullptr if the node is not one of them.
const Node* named_value(const Node& node, bool lenient) {
  if (node.kind != Kind::relation) return nullptr;
  if (node.name.find_first_not_of('=') != std::string::npos && node.name != "e") return nullptr;
  if (is_name(node.args.front(), lenient)) return &node.args.back();
  return node.name == "=" && is_name(node.args[1], /*lenient=*/false) ? &node.args[0] : nullptr;
}

/// x > 5 as (5, infinity), 1 <= x < 2 as [1, 2), each with its x; nothing for other relations.
struct Bounds {
  std::string variable;
  Node interval;
};
std::optional<Bounds> as_interval(const Node& node) {
  if (node.kind != Kind::relation || node.args.size() > 3) return std::nullopt;
  if (node.name.find_first_not_of("<l") != std::string::npos) return std::nullopt;
  const bool named_first = node.args[0].kind == Kind::symbol && has_variable(node.args[0]);
  const size_t middle = node.args.size() == 3 || !named_first;
  const Node& variable = node.args[middle];
  if (variable.kind != Kind::symbol || !has_variable(variable)) return std::nullopt;
  const Node infinity{Kind::symbol, "infty", {}}, minus_infinity{Kind::negate, "", {infinity}};
  const Node low = middle == 1 ? node.args[0] : minus_infinity;
  const Node high = middle + 1 < node.args.size() ? node.args[middle + 1] : infinity;
  if (has_variable(low) || has_variable(high)) return std::nullopt;
  std::string brackets = "()";
  if (middle == 1 && node.name[0] == 'l') brackets[0] = '[';
  if (middle + 1 < node.args.size() && node.name.back() == 'l') brackets[1] = ']';
  return Bounds{variable.name, {Kind::tuple, brackets, {low, high}}};
}

class Comparison {
 public:
  /// A list or set without order; \pm is the list of its two values, and one thing the list of itself.
  bool same(const Node& reference, const Node& answer) {
    std::vector<Node> expected, given;
    list_members(reference, /*lenient=*/false, expected);
    list_members(answer, /*lenient=*/true, given);
    return same_members(expected, given, /*ordered=*/false, /*split=*/false);
  }

 private:
  void list_members(const Node& node, bool lenient, std::vector<Node>& members) {
    const Node* value = named_value(node, lenient);
    if (value && is_collection(*value)) return list_members(*value, lenient, members);
    if (is_collection(node)) {
      for (const Node& arg : node.args) list_signs(arg, members);
    } else {
      list_signs(node, members);
    }
  }

  void list_signs(const Node& node, std::vector<Node>& members) {
    const int count = count_signs(node);
    const bool tied = count < 0;
    if (count > kMaxSigns) work_ = 0;
    const unsigned variants = tied ? 2 : 1u << std::min(count, kMaxSigns);
    for (unsigned bits = 0; bits < variants; ++bits) {
      members.push_back(node);
      int next = 0;
      if (count != 0) choose_signs(members.back(), bits, tied, next);
    }
  }

  bool same_members(const std::vector<Node>& a, const std::vector<Node>& b, bool ordered, bool split = true) {
    if (a.size() != b.size()) return false;
    const auto equal = [&](const Node& x, const Node& y) { return split ? same(x, y) : same_one(x, y); };
    if (ordered) return std::equal(a.begin(), a.end(), b.begin(), equal);
    std::vector<bool> used(b.size());
    for (const Node& x : a) {
      size_t j = 0;
      while (j < b.size() && (used[j] || work_ <= 0 || !equal(x, b[j]))) ++j;
      if (j == b.size()) return false;
      used[j] = true;
    }
    return true;
  }

  bool same_one(const Node& a, const Node& b) {
    if (--work_ < 0) return false;
    if (a.kind == Kind::relation || b.kind == Kind::relation) return same_relation(a, b);
    if (a.kind == Kind::text || b.kind == Kind::text) return same_text(a, b);
    const bool value = a.kind <= Kind::call && b.kind <= Kind::call;
    if (value) return same_value(a, b);
    if (a.kind != b.kind) return is_collection(a) && is_collection(b) && same(a, b);
    switch (a.kind) {
      case Kind::tuple:
        return (a.args.size() != 2 || a.name == b.name) && same_members(a.args, b.args, /*ordered=*/true);
      case Kind::join:
        return a.name == b.name && same_members(a.args, b.args, /*ordered=*/a.name == "setminus");
      case Kind::set:
      case Kind::list:
        return same(a, b);
      default:
        return same_members(a.args, b.args, /*ordered=*/true);  // matrix, ratio
    }
  }

  bool same_text(const Node& a, const Node& b) {
    const auto letters = [](const Node& n) {
      std::string text = n.kind == Kind::text || n.kind == Kind::symbol ? n.name : "";
      for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
      return text;
    };
    if (letters(a) == letters(b)) return true;
    const Node& x = a.kind == Kind::text && !a.args.empty() ? a.args[0] : a;
    const Node& y = b.kind == Kind::text && !b.args.empty() ? b.args[0] : b;
    return x.kind != Kind::text && y.kind != Kind::text && same_one(x, y);
  }

  bool same_relation(const Node& a, const Node& b) {
    const bool both = a.kind == b.kind;
    if (!both || (a.name == "e") != (b.name == "e")) {
      if (const Node* value = named_value(a, /*lenient=*/false); value && (!both || a.name == "e"))
        return same(*value, b);
      if (const Node* value = named_value(b, /*lenient=*/true); value && (!both || b.name == "e"))
        return same(a, *value);
    }
    const auto bounds_a = as_interval(a), bounds_b = as_interval(b);
    if (bounds_a && bounds_b)
      return bounds_a->variable == bounds_b->variable && same_one(bounds_a->interval, bounds_b->interval);
    if (!both)
      return (bounds_a || bounds_b) && same_one(bounds_a ? bounds_a->interval : a, bounds_b ? bounds_b->interval : b);
    if (a.name != b.name) return false;
    if (same_members(a.args, b.args, /*ordered=*/true)) return true;
    const bool symmetric = a.name == "=" || a.name == "!";
    if (symmetric && same_one(a.args[0], b.args[1]) && same_one(a.args[1], b.args[0])) return true;
    return a.name.size() == 1 && a.name != "e" && a.name != "~" &&
           proportional(minus(a.args[0], a.args[1]), minus(b.args[0], b.args[1]), !symmetric);
  }

  /// Exact where both are rational functions, else by the values at a few points.
  bool same_value(const Node& a, const Node& b) {
    for (int prime = 0; prime < 2; ++prime) {
      const auto x = residue(a, prime, 0, work_);
      const auto y = x ? residue(b, prime, 0, work_) : x;
      if (!x || !y) return same_approximately(a, b);
      if (*x != *y) return false;
    }
    return true;
  }

  bool same_approximately(const Node& a, const Node& b) {
    const bool signs = !needs_positive(a) && !needs_positive(b);
    const int points = has_variable(a) || has_variable(b) ? kPoints : 1;
    for (int point = 0; point < points; ++point) {
      const Complex x = approximate(a, point, signs, work_), y = approximate(b, point, signs, work_);
      const long double size = std::max(std::abs(x), std::abs(y));
      if (point > 0 && !std::isfinite(std::abs(x)) && !std::isfinite(std::abs(y))) continue;  // too large there
      if (!std::isfinite(size) || !(std::abs(x - y) <= kTolerance * size + kZero)) return false;
    }
    return true;
  }

  /// a = c b with a constant c other than 0, and above 0 if `positive`: the same equation or inequality.
  bool proportional(const Node& a, const Node& b, bool positive) {
    bool exact = true;
    for (int prime = 0; prime < 2 && exact; ++prime) {
      const auto a0 = residue(a, prime, 0, work_), b0 = residue(b, prime, 0, work_);
      const auto a1 = residue(a, prime, 1, work_), b1 = residue(b, prime, 1, work_);
      exact = a0 && b0 && a1 && b1;
      if (exact && (*a0 == 0 || *b0 == 0 || !same_product(prime, *a0, *b1, *a1, *b0))) return false;
    }
    Complex first = 0;
    for (int point = 0; point < (exact ? 1 : kPoints); ++point) {
      const Complex ratio = approximate(a, point, false, work_) / approximate(b, point, false, work_);
      if (point == 0) first = ratio;
      if (!(std::abs(ratio - first) <= kTolerance * 100 * std::abs(first)) || (positive && !(ratio.real() > 0)))
        return false;
    }
    return exact || std::abs(first) > 0;
  }

  Work work_ = kMaxWork;
};

}  // namespace

Verdict compare(std::string_view reference, std::string_view answer) {
  const auto expected = parse_answer(reference);
  if (!expected) return {false, "the reference cannot be read"};
  const auto given = parse_answer(answer);
  if (!given) return {false, "the answer cannot be read"};
  return Comparison().same(*expected, *given) ? Verdict{true, "equal"} : Verdict{false, "different"};
}

}  // namespace tiny_zero::math
