#include "tasks/math/parse.h"

#include <algorithm>
#include <utility>

#include "tasks/math/lexer.h"

namespace tiny_zero::math {
namespace {

constexpr size_t kMaxBytes = 4096;
constexpr int kMaxDepth = 48;

Node make(Kind kind, std::vector<Node> args, std::string name = {}) { return {kind, std::move(name), std::move(args)}; }
Node make_number(std::string digits, int64_t scale = 0) { return {Kind::number, std::move(digits), {}, scale}; }
Node make_symbol(std::string name) { return {Kind::symbol, std::move(name), {}}; }

/// A sum, product, ... of one is that one.
Node collapse(Kind kind, std::vector<Node> args, std::string name = {}) {
  if (args.size() == 1) return std::move(args[0]);
  return make(kind, std::move(args), std::move(name));
}

/// factor * node, written into the entries of a matrix.
Node scaled(const Node& factor, Node node) {
  if (node.kind != Kind::matrix) return make(Kind::product, {factor, std::move(node)});
  for (Node& row : node.args) {
    for (Node& entry : row.args) entry = make(Kind::product, {factor, std::move(entry)});
  }
  return node;
}

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return text;
}

bool is_integer(const Node& node) { return node.kind == Kind::number && node.scale == 0; }

/// Recursive descent over the tokens. A failure moves to the end, where every loop stops.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  std::optional<Node> run() {
    Node node = list();
    if (failed_ || peek().type != Token::end) return std::nullopt;
    return node;
  }

 private:
  // ---- Tokens ----
  Token& peek(size_t ahead = 0) { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool take(std::string_view mark) {
    if (!peek().is(mark)) return false;
    ++at_;
    return true;
  }
  Node fail() {
    failed_ = true;
    at_ = tokens_.size() - 1;
    return {};
  }
  void expect(std::string_view mark) {
    if (!take(mark)) fail();
  }
  /// Limits the recursion.
  struct Nested {
    explicit Nested(Parser& p) : parser(p) {
      if (++parser.depth_ > kMaxDepth) parser.fail();
    }
    ~Nested() { --parser.depth_; }
    Parser& parser;
  };

  // ---- From the loosest binding to the tightest ----
  std::vector<Node> elements() {
    std::vector<Node> items;
    do items.push_back(relation());
    while (!failed_ && take(","));
    return items;
  }
  Node list() { return collapse(Kind::list, elements()); }

  /// a < b <= c, read from the left or, with the operators turned, from the right.
  Node relation() {
    const Nested nested(*this);
    take("~");
    std::vector<Node> sides;
    std::string operators;
    for (;;) {
      sides.push_back(ratio());
      const Token& next = peek();
      const bool relates = next.type == Token::mark &&
                           (next.is("in") || (next.text.size() == 1 &&
                                              std::string_view("=<>lg!~").find(next.text) != std::string_view::npos));
      if (!relates) break;
      operators += next.is("in") ? 'e' : next.text[0];
      ++at_;
    }
    if (operators.find_first_of("<l") == std::string::npos && operators.find_first_of(">g") != std::string::npos) {
      std::reverse(sides.begin(), sides.end());
      std::reverse(operators.begin(), operators.end());
      for (char& c : operators) c = c == '>' ? '<' : c == 'g' ? 'l' : c;
    }
    return collapse(Kind::relation, std::move(sides), std::move(operators));
  }

  Node ratio() {
    std::vector<Node> parts;
    do parts.push_back(join());
    while (take(":"));
    return collapse(Kind::ratio, std::move(parts));
  }

  Node join() {
    std::vector<Node> parts{operand()};
    std::string name;
    while (peek().is("cup") || peek().is("cap") || peek().is("setminus")) {
      if (!name.empty() && name != peek().text) return fail();  // which comes first?
      name = tokens_[at_++].text;
      parts.push_back(operand());
    }
    return collapse(Kind::join, std::move(parts), std::move(name));
  }

  /// Words or an expression.
  Node operand() {
    bool text = false, word = false, other = false;
    std::string letters;
    size_t end = at_;
    for (int depth = 0;; ++end) {
      const Token& t = tokens_[end];
      depth += (t.is("(") || t.is("[") || t.is("\\{") || t.is("{") || t.is("matrix"));
      depth -= (t.is(")") || t.is("]") || t.is("\\}") || t.is("}") || t.is("end matrix"));
      if (t.type == Token::end || depth < 0) break;
      if (depth == 0 && (t.is(",") || t.is("=") || t.is("in") || t.is("cup") || t.is("newline") || t.is("&"))) break;
      text |= t.type == Token::quoted && depth == 0;
      word |= t.type == Token::word;
      other |= t.type != Token::word && t.type != Token::letter && t.type != Token::quoted;
      if (t.type != Token::mark || t.is(":") || t.is("'")) letters += lower(t.text);
    }
    if (!text && (!word || other)) return sum();
    Node node = make(Kind::text, {}, letters);
    if (!text && letters.size() <= 4) node.args.push_back(product());  // "xy", "ab"
    at_ = end;
    return node;
  }

  Node sum() {
    const Nested nested(*this);
    std::vector<Node> terms;
    do {
      bool negative = false;
      std::string either;
      for (; peek().is("+") || peek().is("-") || peek().is("pm") || peek().is("mp"); ++at_) {
        if (peek().is("-")) negative = !negative;
        if (peek().is("pm") || peek().is("mp")) either = peek().is("pm") ? "+" : "-";
      }
      Node term = product();
      if (negative) term = scaled(make(Kind::negate, {make_number("1")}), std::move(term));
      if (!either.empty()) term = make(Kind::plus_minus, {std::move(term)}, either);
      terms.push_back(std::move(term));
    } while (peek().is("+") || peek().is("-") || peek().is("pm") || peek().is("mp"));
    return collapse(Kind::sum, std::move(terms));
  }

  bool starts_factor() {
    const Token& t = peek();
    if (t.type == Token::mark) {
      return t.is("(") || t.is("[") || t.is("{") || t.is("\\{") || t.is("lfloor") || t.is("lceil") || t.is("matrix") ||
             (t.is("|") && !in_bars_) || t.is("emptyset");
    }
    return t.type != Token::end && t.type != Token::quoted;
  }

  Node product() {
    std::vector<Node> factors{power()};
    for (;;) {
      const bool after_number = peek().type == Token::number && factors.back().kind == Kind::number;
      if (take("*"))
        factors.push_back(signed_power());
      else if (take("/"))
        factors.push_back(make(Kind::reciprocal, {signed_power()}));
      else if (starts_factor() && !after_number)
        factors.push_back(power());
      else
        break;
    }
    const auto matrix =
        std::find_if(factors.begin(), factors.end(), [](const Node& n) { return n.kind == Kind::matrix; });
    if (matrix == factors.end() || factors.size() == 1) return collapse(Kind::product, std::move(factors));
    Node entries = std::move(*matrix);
    factors.erase(matrix);
    return scaled(collapse(Kind::product, std::move(factors)), std::move(entries));
  }

  Node signed_power() {
    bool negative = false;
    for (; peek().is("-") || peek().is("+"); ++at_) negative ^= peek().is("-");
    Node node = power();
    return negative ? make(Kind::negate, {std::move(node)}) : node;
  }

  Node power() {
    Node base = atom();
    for (int i = 0; i < kMaxDepth && !failed_; ++i) {
      const bool braced = peek().is("^") && peek(1).is("{") && peek(2).is("deg") && peek(3).is("}");
      if (braced || (peek().is("^") && peek(1).is("deg")) || peek().is("deg")) {
        at_ += braced ? 4 : peek().is("^") ? 2 : 1;
        if (in_angle_)
          base =
              make(Kind::product, {std::move(base), make_symbol("pi"), make(Kind::reciprocal, {make_number("180")})});
      } else if (take("factorial")) {
        base = make(Kind::call, {std::move(base)}, "factorial");
      } else if (take("^")) {
        Node exponent = this->exponent();
        base = make(Kind::power, {std::move(base), std::move(exponent)});
      } else {
        break;
      }
    }
    return base;
  }

  /// What follows a ^: a group, or one signed power, so that a^b^c is a^(b^c). "2^10" means what it says, not 2^1 0.
  Node exponent() {
    const Nested nested(*this);
    if (take("{")) {
      Node node = sum();
      expect("}");
      return node;
    }
    return signed_power();
  }

  Node atom() {
    const Nested nested(*this);
    Token& token = peek();
    switch (token.type) {
      case Token::number:
        return number();
      case Token::letter:
        return letter();
      case Token::word: {  // its first letter
        const std::string first = token.text.substr(0, 1);
        token.text.erase(0, 1);
        if (token.text.size() == 1) token.type = Token::letter;
        return make_symbol(first);
      }
      case Token::function:
        return function();
      case Token::command:
        return command();
      case Token::mark:
        return bracket();
      default:
        return fail();
    }
  }

  Node number() {
    const Token token = peek();
    ++at_;
    if (take("_")) return make_symbol(token.text + "_" + subscript());  // 12_3 is no other number than 12_3
    Node node = make_number(token.text, token.scale);
    if (!token.repeat.empty()) {
      Node tail = make(Kind::product, {make_number(token.repeat, token.scale),
                                       make(Kind::reciprocal, {make_number(std::string(token.repeat.size(), '9'))})});
      return make(Kind::sum, {std::move(node), std::move(tail)});
    }
    return mixed(std::move(node));
  }

  /// 1\frac{4}{5}, 1\frac45 or 1 4/5 is a sum if the fraction is a proper one, and not an exponent with what follows
  /// it.
  Node mixed(Node whole) {
    const bool frac = peek().type == Token::command && peek().text == "frac";
    if (!is_integer(whole) || (at_ > 1 && tokens_[at_ - 2].is("^"))) return whole;
    size_t ahead = frac;
    const auto part = [&]() -> std::string {
      const bool braced = frac && peek(ahead).is("{");
      const Token& token = peek(ahead + braced);
      if (token.type != Token::number || token.scale != 0 || !token.repeat.empty()) return "";
      if (braced && !peek(ahead + 2).is("}")) return "";
      ahead += braced ? 3 : 1;
      return token.text;
    };
    std::string top = part(), bottom;
    if (frac && top.size() == 2 && ahead == 2) {
      bottom = top.substr(1);
      top.resize(1);
    } else if (!top.empty() && (frac || peek(ahead++).is("/"))) {
      bottom = part();
    }
    const bool proper = top.size() < bottom.size() || (top.size() == bottom.size() && top < bottom);
    if (top.empty() || !proper) return whole;
    at_ += ahead;
    return make(Kind::sum, {std::move(whole),
                            make(Kind::product, {make_number(top), make(Kind::reciprocal, {make_number(bottom)})})});
  }

  Node letter() {
    std::string name = tokens_[at_++].text;
    const bool may_call = name == "f" || name == "g" || name == "h";
    while (take("'")) name += '\'';
    if (take("_")) name += "_" + subscript();
    if (!may_call || !take("(")) return make_symbol(std::move(name));
    std::vector<Node> args = elements();
    expect(")");
    return make(Kind::call, std::move(args), "unknown " + name);
  }

  /// The text of a token or of a group.
  std::string subscript() {
    if (!peek().is("{")) return peek().type == Token::end ? std::string() : tokens_[at_++].text;
    std::string text;
    int depth = 0;
    do {
      depth += peek().is("{") - peek().is("}");
      if (!peek().is("{") && !peek().is("}")) text += peek().text;
      ++at_;
    } while (depth > 0 && peek().type != Token::end);
    return text;
  }

  /// One argument of \frac and its like: a group, or one digit or atom.
  Node argument() {
    Token& token = peek();
    if (take("{")) {
      Node node = sum();
      expect("}");
      return node;
    }
    if (token.type != Token::number || token.text.size() == 1 || token.scale != 0) return atom();
    const std::string digit = token.text.substr(0, 1);
    token.text.erase(0, 1);
    return make_number(digit);
  }

  Node command() {
    const std::string name = tokens_[at_++].text;
    if (name == "frac" || name == "binom") {
      Node a = argument(), b = argument();
      if (name == "binom") return make(Kind::call, {std::move(a), std::move(b)}, "binom");
      return make(Kind::product, {std::move(a), make(Kind::reciprocal, {std::move(b)})});
    }
    if (name == "sqrt") {
      Node index = make_number("2");
      if (take("[")) {
        index = sum();
        expect("]");
      }
      Node radicand = peek().type == Token::number ? number() : atom();
      return make(Kind::power, {std::move(radicand), make(Kind::reciprocal, {std::move(index)})});
    }
    const std::string mark = subscript();
    if (name == "mathbb" && mark == "R") {
      const Node infinity = make_symbol("infty");
      return make(Kind::tuple, {make(Kind::negate, {infinity}), infinity}, "()");
    }
    return make_symbol(name + " " + mark);
  }

  /// \sin^2 x, \log_2 (x): without brackets the argument is a product up to the next function, as in \sin 5x \cos x.
  Node function() {
    std::string name = tokens_[at_++].text;
    Node base, exponent;
    const bool has_base = take("_");
    if (has_base) base = argument();
    const bool raised = take("^");
    if (raised) exponent = this->exponent();
    const bool arc =
        raised && exponent.kind == Kind::negate && is_integer(exponent.args[0]) && exponent.args[0].name == "1";
    const bool was_in_angle = std::exchange(in_angle_, name.size() == 3 && name != "exp" && name != "log");
    Node argument;
    if (peek().is("(") || peek().is("{")) {
      argument = atom();
    } else {
      std::vector<Node> factors{peek().type == Token::function ? atom() : power()};
      while (starts_factor() && peek().type != Token::function) factors.push_back(power());
      argument = collapse(Kind::product, std::move(factors));
    }
    in_angle_ = was_in_angle;
    if (name == "exp") return make(Kind::power, {make_symbol("e"), std::move(argument)});
    std::vector<Node> args{std::move(argument)};
    if (name == "log") args.push_back(has_base ? std::move(base) : make_number("10"));
    Node call = make(Kind::call, std::move(args), arc ? "arc" + name : name);
    return raised && !arc ? make(Kind::power, {std::move(call), std::move(exponent)}) : call;
  }

  Node bracket() {
    const std::string open = peek().text;
    ++at_;
    if (open == "(" || open == "[") return tuple(open);
    if (open == "{" || open == "\\{") return braces(open);
    if (open == "matrix") return matrix();
    if (open == "emptyset") return make(Kind::set, {});
    if (open != "|" && open != "lfloor" && open != "lceil") return fail();
    const bool was_in_bars = std::exchange(in_bars_, open == "|");
    Node inside = sum();
    in_bars_ = was_in_bars;
    expect(open == "|" ? "|" : open == "lfloor" ? "rfloor" : "rceil");
    return make(Kind::call, {std::move(inside)}, open == "|" ? "abs" : open.substr(1));
  }

  Node tuple(const std::string& open) {
    const bool was_in_bars = std::exchange(in_bars_, false);
    std::vector<Node> items = elements();
    in_bars_ = was_in_bars;
    const std::string close = peek().text;
    if (!take(")") && !take("]")) return fail();
    const bool pair = (open == "(") == (close == ")");
    if (items.size() == 1) return pair ? std::move(items[0]) : fail();
    return make(Kind::tuple, std::move(items), open + close);
  }

  /// { } groups one thing, or lists several; \{ \} is a set, of what follows \mid if there is one.
  Node braces(const std::string& open) {
    const std::string close = open == "{" ? "}" : "\\}";
    const bool was_in_bars = std::exchange(in_bars_, false);
    if (open == "\\{" && take(close)) return make(Kind::set, {});
    std::vector<Node> items = elements();
    const bool described = open == "\\{" && take("mid");
    if (described) items = {relation()};
    in_bars_ = was_in_bars;
    expect(close);
    if ((open == "{" || described) && items.size() == 1) return std::move(items[0]);
    return make(Kind::set, std::move(items));
  }

  Node matrix() {
    std::vector<Node> rows;
    while (!failed_ && !take("end matrix")) {
      std::vector<Node> row;
      do row.push_back(operand());
      while (take("&"));
      rows.push_back(make(Kind::tuple, std::move(row), "()"));
      if (!take("newline") && !peek().is("end matrix")) return fail();
    }
    return make(Kind::matrix, std::move(rows));
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

}  // namespace tiny_zero::math
