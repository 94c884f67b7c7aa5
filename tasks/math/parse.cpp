#include <algorithm>
#include <tuple>
#include <utility>

#include "tasks/math/expression.h"
#include "tasks/math/lexer.h"

namespace tiny_zero::math {
namespace {

constexpr size_t kMaxBytes = 1024;
constexpr int kMaxDepth = 40;

const Node kInfinity{Kind::symbol, "infty"};

Node number_node(std::string digits, int64_t scale = 0) { return {Kind::number, std::move(digits), {}, scale}; }
Node inverse(Node node) { return {Kind::power, "", {std::move(node), number_node("-1")}}; }
Node quotient(Node a, Node b) { return {Kind::product, "", {std::move(a), inverse(std::move(b))}}; }

/// A sum, product, ... of one is that one.
Node collapse(Kind kind, std::vector<Node> args, std::string name = {}) {
  if (args.size() == 1) return std::move(args[0]);
  return {kind, std::move(name), std::move(args)};
}

/// factor * node, written into the entries of a matrix.
Node scaled(const Node& factor, Node node) {
  if (node.name != "matrix" && node.name != "row") return {Kind::product, "", {factor, std::move(node)}};
  for (Node& arg : node.args) arg = scaled(factor, std::move(arg));
  return node;
}

/// -node, written into the digits of a number.
Node negated(Node node) {
  if (node.kind != Kind::number) return scaled(number_node("-1"), std::move(node));
  node.name = node.name[0] == '-' ? node.name.substr(1) : "-" + node.name;
  return node;
}

bool is_integer(const Node& node) { return node.kind == Kind::number && node.scale == 0 && node.name[0] != '-'; }

/// Whether it is a fraction of two integers below 1, as in a mixed number.
bool is_proper(const Node& node) {
  if (node.kind != Kind::product || node.args.size() != 2 || node.args[1].kind != Kind::power) return false;
  const Node &top = node.args[0], &bottom = node.args[1].args[0];
  if (!is_integer(top) || !is_integer(bottom)) return false;
  return std::pair(top.name.size(), top.name) < std::pair(bottom.name.size(), bottom.name);
}

/// Turns > into <, and bounds of one variable into an interval.
Node canonical_relation(Node node) {
  std::string& operators = node.name;
  if (operators.find_first_of("<l") == std::string::npos && operators.find_first_of(">g") != std::string::npos) {
    std::reverse(node.args.begin(), node.args.end());
    std::reverse(operators.begin(), operators.end());
    for (char& c : operators) c = c == '>' ? '<' : c == 'g' ? 'l' : c;
  }
  if (operators.find_first_not_of("<l") != std::string::npos) return node;
  Node bounds = node;
  if (operators.size() == 1) {  // up to or from infinity
    const bool below = has_variable(node.args[0]);
    bounds.args.insert(below ? bounds.args.begin() : bounds.args.end(), below ? negated(kInfinity) : kInfinity);
    bounds.name.insert(below ? 0 : 1, "<");
  }
  const auto& [low, middle, high] = std::tie(bounds.args[0], bounds.args[1], bounds.args[2]);
  if (bounds.name.size() > 2 || has_variable(low) || has_variable(high)) return node;
  if (middle.kind != Kind::symbol || !has_variable(middle)) return node;
  const std::string brackets = {bounds.name[0] == 'l' ? '[' : '(', bounds.name[1] == 'l' ? ']' : ')'};
  return {Kind::relation, "e", {middle, {Kind::tuple, brackets, {low, high}}}};
}

bool has_text(const Token& t) { return t.type >= Token::number && t.type <= Token::quoted; }

bool ends_operand(const Token& t) {
  constexpr std::string_view kMarks = " , = < > l g ! e ~ : U N \\ & ) ] } \\} newline end ";
  return t.type == Token::end || (t.type == Token::mark && kMarks.find(" " + t.text + " ") != std::string_view::npos);
}

/// Recursive descent over the tokens. A failure moves to the end, where every loop stops.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  std::optional<Node> run() {
    Node node = list();
    return failed_ || peek().type != Token::end ? std::nullopt : std::optional(std::move(node));
  }

 private:
  using Rule = Node (Parser::*)();

  Token& peek(size_t ahead = 0) { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : Token{}; }
  bool is_one_of(std::string_view marks) {
    return peek().type == Token::mark && peek().text.size() == 1 && marks.find(peek().text) != std::string_view::npos;
  }
  bool take(std::string_view mark) {
    const bool found = peek().is(mark);
    at_ += found;
    return found;
  }
  Node fail() {
    failed_ = true;
    at_ = tokens_.size() - 1;
    return {};
  }
  Node expect(std::string_view mark, Node node) { return take(mark) ? node : fail(); }
  Node nested(Rule rule) {  // limits the recursion
    if (++depth_ > kMaxDepth) return fail();
    Node node = (this->*rule)();
    --depth_;
    return node;
  }

  // ---- From the loosest binding to the tightest ----
  Node chain(Kind kind, std::string_view operators, Rule part) {
    std::vector<Node> parts{(this->*part)()};
    std::string name;
    while (is_one_of(operators)) {
      name += next().text;
      parts.push_back((this->*part)());
    }
    return collapse(kind, std::move(parts), std::move(name));
  }
  Node list() { return chain(Kind::set, ",", &Parser::relation); }
  Node relation() {
    take("~");
    Node node = chain(Kind::relation, "=<>lg!e~", &Parser::ratio);
    return node.kind == Kind::relation ? canonical_relation(std::move(node)) : node;
  }
  Node ratio() { return chain(Kind::tuple, ":", &Parser::join); }
  Node join() { return chain(Kind::tuple, "UN\\", &Parser::operand); }

  /// Words or an expression. Two to four bare letters, such as xy, may be both.
  Node operand() {
    std::string letters;
    bool has[Token::mark] = {};
    size_t end = at_;
    for (; has_text(tokens_[end]); ++end) {
      for (const char c : tokens_[end].text) letters += c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
      has[tokens_[end].type] = true;
    }
    const bool words = has[Token::word] && !has[Token::number] && ends_operand(tokens_[end]);
    if (!has[Token::quoted] && !words) return sum();
    Node node{Kind::text, letters};
    if (!has[Token::quoted] && letters.size() <= 4) node.args.push_back(product());
    at_ = end;
    return node;
  }

  Node sum() {
    std::vector<Node> terms;
    do terms.push_back(with_sign(&Parser::product));
    while (is_one_of("+-pm"));
    return collapse(Kind::sum, std::move(terms));
  }

  Node with_sign(Rule part) {
    if (!is_one_of("+-pm")) return (this->*part)();
    const std::string sign = next().text;
    Node node = with_sign(part);
    if (sign == "+") return node;
    return sign == "-" ? negated(std::move(node)) : scaled({Kind::symbol, sign + "m"}, std::move(node));
  }

  bool starts_factor() {
    if (peek().type != Token::mark) return peek().type != Token::end && peek().type != Token::quoted;
    constexpr std::string_view kOpening = " ( [ { \\{ lfloor lceil matrix array deg emptyset ";
    return peek().is("|") ? !in_bars_ : kOpening.find(" " + peek().text + " ") != std::string_view::npos;
  }

  Node product() {
    std::vector<Node> factors{power()};
    for (;;) {
      const bool numbers = peek().type == Token::number && factors.back().kind == Kind::number;
      if (is_one_of("*/")) {
        const bool divides = next().text == "/";
        Node factor = with_sign(&Parser::power);
        factors.push_back(divides ? inverse(std::move(factor)) : std::move(factor));
      } else if (starts_factor() && (!numbers || peek(1).is("/"))) {
        const bool frac = peek().type == Token::command;
        Node factor = power();
        if (numbers) factor = take("/") ? quotient(std::move(factor), power()) : fail();
        const bool mixed = (frac || numbers) && is_integer(factors.back()) && is_proper(factor);  // 1\frac{4}{5}, 1 4/5
        if (mixed) factor = {Kind::sum, "", {factors.back(), std::move(factor)}};
        if (mixed) factors.pop_back();
        factors.push_back(numbers && !mixed ? fail() : std::move(factor));
      } else {
        break;
      }
    }
    Node last = std::move(factors.back());
    factors.pop_back();
    return factors.empty() ? last : scaled(collapse(Kind::product, std::move(factors)), std::move(last));
  }

  Node power() {
    Node base = nested(&Parser::atom);
    for (int i = 0; i < kMaxDepth && (peek().is("^") || peek().is("factorial")); ++i) {
      const bool raised = next().text == "^";
      Node exponent = raised ? nested(&Parser::exponent) : Node{};
      const Kind kind = !raised ? Kind::call : exponent.name == "deg" ? Kind::product : Kind::power;
      base = {kind, raised ? "" : "factorial", {std::move(base)}};
      if (raised) base.args.push_back(std::move(exponent));
    }
    return base;
  }

  /// What follows a ^: a group or one signed power, so that a^b^c is a^(b^c). "2^10" means what it says, not 2^1 0.
  Node exponent() { return peek().is("{") ? group() : with_sign(&Parser::power); }
  Node group() { return take("{") ? expect("}", sum()) : fail(); }

  Node atom() {
    Token& token = peek();
    if (token.type == Token::number) return number();
    if (token.type == Token::letter) return letter();
    if (token.type == Token::function) return function();
    if (token.type == Token::command) return command();
    if (token.type == Token::mark) return bracket();
    if (token.type != Token::word) return fail();
    Node first{Kind::symbol, token.text.substr(0, 1)};  // the letters of a word one by one
    token.text.erase(0, 1);
    if (token.text.size() == 1) token.type = Token::letter;
    return first;
  }

  Node number() {
    const Token token = next();
    if (take("_")) return {Kind::symbol, token.text + "_" + subscript()};  // 12_3 is no other number than 12_3
    Node node = number_node(token.text, token.scale);
    const bool repeats = peek().type == Token::command && (peek().text == "overline" || peek().text == "bar");
    if (!repeats || peek(2).type != Token::number) return node;
    ++at_;
    const std::string tail = subscript(), nines(tail.size(), '9');
    return {Kind::sum, "", {std::move(node), quotient(number_node(tail, token.scale), number_node(nines))}};
  }

  Node letter() {
    std::string name = next().text;
    const bool may_call = name == "f" || name == "g" || name == "h";
    while (take("'")) name += '\'';
    if (take("_")) name += "_" + subscript();
    if (!may_call || !take("(")) return {Kind::symbol, std::move(name)};
    return {Kind::call, "unknown " + name, {expect(")", list())}};
  }

  /// The text of a token or of a group.
  std::string subscript() {
    const bool braced = take("{");
    std::string text;
    do text += next().text;
    while (braced && !take("}") && peek().type != Token::end);
    return text;
  }

  /// One argument of \frac and its like: a group, or one digit or atom.
  Node argument() {
    Token& token = peek();
    if (token.is("{")) return group();
    if (token.type != Token::number || token.text.size() == 1 || token.scale != 0) return nested(&Parser::atom);
    Node digit = number_node(token.text.substr(0, 1));
    token.text.erase(0, 1);
    return digit;
  }

  Node command() {
    const std::string name = next().text;
    if (name == "frac" || name == "binom") {
      Node a = argument(), b = argument();
      return name == "frac" ? quotient(std::move(a), std::move(b))
                            : Node{Kind::call, name, {std::move(a), std::move(b)}};
    }
    if (name == "sqrt") {
      Node index = take("[") ? expect("]", sum()) : number_node("2");
      return {Kind::power, "", {nested(&Parser::atom), inverse(std::move(index))}};
    }
    const std::string what = subscript();
    if (name != "mathbb" || what != "R") return {Kind::symbol, name + " " + what};  // \vec{v}, \overline{AB}
    return {Kind::tuple, "()", {negated(kInfinity), kInfinity}};
  }

  /// \sin^2 x, \log_2 (x): without brackets the argument is a product up to the next function, as in \sin 5x \cos x.
  Node function() {
    const std::string name = next().text;
    Node base = take("_") ? argument() : number_node("10");
    Node exponent = take("^") ? nested(&Parser::exponent) : number_node("1");
    const bool was_in_angle = std::exchange(in_angle_, name.size() == 3 && name != "exp" && name != "log");
    const bool bracketed = peek().is("(") || peek().is("{");
    std::vector<Node> factors{bracketed ? nested(&Parser::atom) : power()};
    while (!bracketed && starts_factor() && peek().type != Token::function) factors.push_back(power());
    in_angle_ = was_in_angle;
    Node argument = collapse(Kind::product, std::move(factors));
    if (name == "exp") return {Kind::power, "", {{Kind::symbol, "e"}, std::move(argument)}};
    const bool arc = exponent.name == "-1", log = name == "log";
    Node call{Kind::call, log ? "ln" : (arc ? "arc" : "") + name, {std::move(argument)}};
    if (name == "sec" || name == "csc" || name == "cot") {
      call = inverse({Kind::call, name == "sec" ? "cos" : name == "csc" ? "sin" : "tan", std::move(call.args)});
    }
    if (log) call = quotient(std::move(call), {Kind::call, "ln", {std::move(base)}});
    return arc || exponent.name == "1" ? call : Node{Kind::power, "", {std::move(call), std::move(exponent)}};
  }

  Node bracket() {
    const std::string open = next().text;
    const bool was_in_bars = std::exchange(in_bars_, open == "|");
    Node node = bracketed(open);
    in_bars_ = was_in_bars;
    return node;
  }

  /// Round and square brackets and braces group one thing, or list several; \{ \} is always a set, but for what follows
  /// a \mid, which describes it.
  Node bracketed(const std::string& open) {
    if (open == "emptyset" || (open == "\\{" && take("\\}"))) return {Kind::set, "{}"};
    if (open == "deg")
      return {Kind::product, open, {in_angle_ ? quotient({Kind::symbol, "pi"}, number_node("180")) : number_node("1")}};
    if (open == "matrix" || open == "array") return matrix(open);
    if (open == "|" || open == "lfloor" || open == "lceil") {
      const bool bars = open == "|";
      return {Kind::call, bars ? "abs" : open.substr(1), {expect(bars ? open : "r" + open.substr(1), sum())}};
    }
    if (open != "(" && open != "[" && open != "{" && open != "\\{") return fail();
    Node node = list();
    const bool described = open == "\\{" && take("mid");
    if (described) node = relation();
    const std::string close = next().text;
    const bool round = open == "(" || open == "[", listed = node.kind == Kind::set && node.name[0] == ',';
    if (round ? close != ")" && close != "]" : close != (open == "{" ? "}" : "\\}")) return fail();
    if (round && listed) return {Kind::tuple, open + close, std::move(node.args)};
    if (round && (open == "(") != (close == ")")) return fail();
    if (open != "\\{" || described) return node;
    return listed ? Node{Kind::set, "{}", std::move(node.args)} : Node{Kind::set, "{}", {std::move(node)}};
  }

  Node matrix(const std::string& open) {
    if (open == "array") subscript();  // its columns
    Node matrix{Kind::tuple, "matrix"};
    while (!failed_ && !take("end")) {
      Node row{Kind::tuple, "row", {operand()}};
      while (take("&")) row.args.push_back(operand());
      matrix.args.push_back(std::move(row));
      if (!take("newline") && !peek().is("end")) return fail();
    }
    return matrix;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  bool failed_ = false;
  bool in_angle_ = false;  // degrees count
  bool in_bars_ = false;   // the next | closes
};

}  // namespace

std::optional<Node> parse_answer(std::string_view text) {
  if (text.size() > kMaxBytes) return std::nullopt;
  auto tokens = tokenize(text);
  if (!tokens || tokens->size() == 1) return std::nullopt;
  return Parser(std::move(*tokens)).run();
}

bool has_variable(const Node& node) {
  return any_node(node, [](const Node& n) {
    return n.kind == Kind::symbol && n.name != "i" && n.name != "e" && n.name != "pi" && n.name != "infty" &&
           n.name != "pm" && n.name != "mp";
  });
}

}  // namespace tiny_zero::math
