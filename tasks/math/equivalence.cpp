#include <algorithm>
#include <cmath>
#include <functional>

#include "tasks/math/expression.h"
#include "tasks/math/grader.h"

namespace tiny_zero::math {
namespace {

constexpr Work kMaxWork = 100000;
constexpr int kPoints = 4;
constexpr long double kTolerance = 1e-14L, kRatioTolerance = 1e-12L, kZero = 1e-16L;

bool is_sign(const Node& node) { return node.name == "pm" || node.name == "mp"; }

/// The node with \pm as + or, if `minus`, as -, and \mp as the opposite.
Node with_sign(Node node, bool minus) {
  if (is_sign(node)) return {Kind::number, (node.name == "pm") == minus ? "-1" : "1"};
  for (Node& arg : node.args) arg = with_sign(std::move(arg), minus);
  return node;
}

/// Roots, powers with a variable exponent and logarithms take variables as positive.
bool needs_positive(const Node& node) {
  return any_node(node, [](const Node& n) {
    return n.name == "ln" ||
           (n.kind == Kind::power && (n.args[1].kind != Kind::number || n.args[1].scale != 0));
  });
}

/// Whether the node may name the value on the other side of "=": in a gold answer x, AB, f(x) or
/// (x,y); in a model's answer any expression without numbers, such as a + b.
bool is_name(const Node& node, bool lenient) {
  if (node.kind == Kind::symbol) return has_variable(node);
  if (node.kind == Kind::text || node.name.starts_with("unknown ")) return true;
  if (node.kind != Kind::product && node.kind != Kind::tuple &&
      !(lenient && node.kind == Kind::sum))
    return false;
  return std::ranges::all_of(node.args, [&](const Node& n) { return is_name(n, lenient); });
}

/// The value of "name = value", "value = name" or "name \in value"; nullptr for any other node.
const Node* named_value(const Node& node, bool lenient) {
  if (node.kind != Kind::relation || (node.name != "=" && node.name != "e")) return nullptr;
  if (is_name(node.args.front(), lenient)) return &node.args.back();
  return node.name == "=" && is_name(node.args[1], /*lenient=*/false) ? &node.args[0] : nullptr;
}

/// The members of a list or set; a single node is a list of one, and a value with \pm is two
/// members. "k \in \mathbb{Z}" beside other members is dropped.
std::vector<Node> list_members(const Node& node, bool lenient) {
  const Node* value = named_value(node, lenient);
  const Node& inner = value && value->kind == Kind::set ? *value : node;
  std::vector<Node> members, all = inner.kind == Kind::set ? inner.args : std::vector{inner};
  const auto is_remark = [](const Node& n) {
    return n.kind == Kind::relation && n.name == "e" && n.args[1].name.starts_with("mathbb ");
  };
  if (all.size() > 1) std::erase_if(all, is_remark);
  for (const Node& member : all) {
    members.push_back(with_sign(member, /*minus=*/false));
    if (any_node(member, is_sign)) members.push_back(with_sign(member, /*minus=*/true));
  }
  return members;
}

/// "x = 1, y = 2" as the point (1, 2) and "x < 1, x > 5" as a union; any other list as it is.
std::vector<Node> joined(std::vector<Node> list) {
  const auto is_relation = [](const Node& n) { return n.kind == Kind::relation; };
  if (list.size() < 2 || !std::ranges::all_of(list, is_relation)) return list;
  const auto is_before = [](const Node& a, const Node& b) {
    return a.args[0].name < b.args[0].name;
  };
  const auto is_coordinate = [](const Node& n) {
    return n.name == "=" && is_name(n.args[0], /*lenient=*/false);
  };
  const bool point = std::ranges::all_of(list, is_coordinate) &&
                     std::ranges::adjacent_find(list, std::not_fn(is_before)) == list.end();
  Node whole{Kind::tuple, point ? "()" : std::string(list.size() - 1, 'U')};
  for (Node& member : list)
    whole.args.push_back(point ? std::move(member.args[1]) : std::move(member));
  return {std::move(whole)};
}

/// x > 5 as x \in (5, infinity), 1 <= x < 2 as x \in [1, 2); any other node as it is.
Node membership(Node node) {
  if (node.kind != Kind::relation || node.name.size() > 2 ||
      node.name.find_first_not_of("<l") != std::string::npos)
    return node;
  const Node infinity{Kind::symbol, "infty"},
      minus_infinity{Kind::product, "", {{Kind::number, "-1"}, infinity}};
  const bool below = node.name.size() == 1 && has_variable(node.args[0]);
  const Node low = below ? minus_infinity : node.args[0], x = node.args[!below];
  const Node high = below || node.name.size() == 2 ? node.args.back() : infinity;
  if (x.kind != Kind::symbol || !has_variable(x) || has_variable(low) || has_variable(high))
    return node;
  const std::string brackets = {
      !below && node.name[0] == 'l' ? '[' : '(',
      (below || node.name.size() == 2) && node.name.back() == 'l' ? ']' : ')'};
  const Node interval{Kind::tuple, brackets, {low, high}};
  return {Kind::relation, "e", {x, interval}};
}

/// The letters of a word or of a variable of one letter.
std::string letters(const Node& node) {
  if (node.kind == Kind::symbol && node.name.size() == 1)
    return {static_cast<char>(node.name[0] | 0x20)};
  return node.kind == Kind::text ? node.name : "";
}

class Comparison {
 public:
  bool same(const Node& gold, const Node& answer) {
    auto expected = list_members(gold, /*lenient=*/false),
         given = list_members(answer, /*lenient=*/true);
    if (is_tuple(expected)) given = joined(std::move(given));
    if (is_tuple(given)) expected = joined(std::move(expected));
    if (expected.size() == 1 && given.size() == 1) return same_one(expected[0], given[0]);
    return same_members(expected, given, /*ordered=*/false);
  }

 private:
  static bool is_tuple(const std::vector<Node>& list) {
    const Node* value = list.size() == 1 ? named_value(list[0], /*lenient=*/true) : nullptr;
    return list.size() == 1 && (value ? *value : list[0]).kind == Kind::tuple;
  }

  bool same_members(const std::vector<Node>& a, std::vector<Node> b, bool ordered) {
    if (a.size() != b.size()) return false;
    for (const Node& x : a) {
      const auto end = ordered ? b.begin() + 1 : b.end();
      const auto found = std::find_if(b.begin(), end, [&](const Node& y) { return same(x, y); });
      if (found == end) return false;
      b.erase(found);
    }
    return true;
  }

  bool same_one(const Node& a, const Node& b) {
    if (--work_ < 0) return false;
    if (a.kind == Kind::relation || b.kind == Kind::relation) return same_relation(a, b);
    if (a.kind == Kind::text || b.kind == Kind::text) return same_text(a, b);
    if (a.kind < Kind::tuple && b.kind < Kind::tuple) return same_value(a, b);
    if (a.kind != b.kind) return false;
    if (a.kind == Kind::set) return same(a, b);
    const bool unordered = a.name[0] == 'U' || a.name[0] == 'N';  // unions and intersections
    return a.name == b.name && same_members(a.args, b.args, !unordered);
  }

  bool same_text(const Node& a, const Node& b) {
    if (letters(a) == letters(b)) return true;
    const Node& x = a.kind == Kind::text && !a.args.empty() ? a.args[0] : a;
    const Node& y = b.kind == Kind::text && !b.args.empty() ? b.args[0] : b;
    return x.kind != Kind::text && y.kind != Kind::text && same_one(x, y);
  }

  bool same_relation(const Node& a, const Node& b) {
    if (a.name != b.name) {
      const Node x = membership(a), y = membership(b);
      if (x.name != a.name || y.name != b.name) return same_relation(x, y);
    }
    const bool both = a.kind == b.kind, mixed = (a.name == "e") != (b.name == "e");
    const Node *value_a = named_value(a, /*lenient=*/false),
               *value_b = named_value(b, /*lenient=*/true);
    if (value_a && (!both || (mixed && a.name == "e"))) return same(*value_a, b);
    if (value_b && (!both || (mixed && b.name == "e"))) return same(a, *value_b);
    if (!both || a.name != b.name) return false;
    if (same_members(a.args, b.args, /*ordered=*/true)) return true;
    const bool symmetric = a.name == "=" || a.name == "!";
    if (symmetric && same(a.args[0], b.args[1]) && same(a.args[1], b.args[0])) return true;
    return (symmetric || a.name == "<" || a.name == "l") &&
           proportional(a, b, /*positive=*/!symmetric);
  }

  /// Exact where both are rational functions, else by the values at a few points.
  bool same_value(const Node& a, const Node& b) {
    const bool signs = !needs_positive(a) && !needs_positive(b),
               variable = has_variable(a) || has_variable(b);
    for (int point = 0; point < (variable ? kPoints : 1); ++point) {
      const Value x = evaluate(a, point, signs, work_), y = evaluate(b, point, signs, work_);
      if (work_ < 0) return false;
      if (x.exact && y.exact) return x.residues == y.residues;
      const long double size_x = std::abs(x.approximate), size_y = std::abs(y.approximate);
      // Too large there.
      if (point > 0 && !std::isfinite(size_x) && !std::isfinite(size_y)) continue;
      const long double allowed = kTolerance * std::max(size_x, size_y) + kZero;
      if (!std::isfinite(allowed) || !(std::abs(x.approximate - y.approximate) <= allowed))
        return false;
    }
    return true;
  }

  /// left - right of a is a constant multiple of that of b, and a positive one where the direction
  /// counts.
  bool proportional(const Node& a, const Node& b, bool positive) {
    Complex first = 0;
    for (int point = 0; point < kPoints; ++point) {
      const auto difference = [&](const Node& n) {
        return evaluate(n.args[0], point, false, work_).approximate -
               evaluate(n.args[1], point, false, work_).approximate;
      };
      const Complex ratio = difference(a) / difference(b);
      if (point == 0) first = ratio;
      const bool constant = std::abs(ratio - first) <= kRatioTolerance * std::abs(first);
      if (!constant || ratio == Complex(0) || (positive && ratio.real() <= 0)) return false;
    }
    return true;
  }

  Work work_ = kMaxWork;
};

}  // namespace

Verdict compare(std::string_view gold, std::string_view answer) {
  const auto expected = parse_answer(gold);
  if (!expected) return {false, "the right answer cannot be read"};
  const auto given = parse_answer(answer);
  if (!given) return {false, "the answer cannot be read"};
  return Comparison().same(*expected, *given) ? Verdict{true, "equal"}
                                              : Verdict{false, "different"};
}

}  // namespace tiny_zero::math
