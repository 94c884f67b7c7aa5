// LaTeX to tokens to a tree. What is not understood throws Unreadable, which does not leave this
// file.
#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "tasks/math/expression.h"

namespace tiny_zero::math {
namespace {

constexpr size_t kMaxBytes = 1024;
constexpr int kMaxDepth = 40;

struct Unreadable {};

// ---- Tokens ----

/// end         after the last token
/// number      text: digits; the value is text * 10^scale
/// letter      a variable: one letter, or a command such as \theta
/// word        two or more letters without \text: a product or a word
/// quoted      a word of \text{...}
/// function    sin, log, ...
/// command     frac, sqrt, ...
/// mark        operators, brackets, separators
/// The other types classify known names and make no tokens: layout is dropped, a fraction has one
/// digit over another, a unit is dropped after a value, and "pm" of a clock is a word there.
struct Token {
  enum Type {
    end,
    number,
    letter,
    word,
    quoted,
    function,
    command,
    mark,
    layout,
    fraction,
    unit,
    clock
  };
  Type type = end;
  std::string text = {};
  int64_t scale = 0;
  bool is(std::string_view mark_text) const { return type == mark && text == mark_text; }
};

/// The known names: "spelling", which without its backslash is the token's text, or
/// "spelling=text".
constexpr std::pair<Token::Type, std::string_view> kNames[] = {
    {Token::command,
     R"(\frac \dfrac=frac \tfrac=frac \cfrac=frac \sqrt √=sqrt \binom \dbinom=binom \tbinom=binom
      \mathbb \overline \bar \dot=overline \vec \overrightarrow=vec \hat \widehat=hat \tilde
      \phantom \text \mbox=text \textbf=text \textrm=text \textit=text \textnormal=text
      \mathrm=text \operatorname=text)"},
    {Token::function,
     R"(\sin \cos \tan \sec \csc \cot \arcsin \arccos \arctan \log \ln \lg=log \exp)"},
    {Token::letter,
     R"(\pi π=pi \theta θ=theta \infty ∞=infty \infinity=infty \alpha α=alpha \beta β=beta \gamma
      γ=gamma \delta \epsilon \varepsilon=epsilon \zeta \eta \kappa \lambda λ=lambda \mu μ=mu \nu
      \xi \rho \sigma σ=sigma \tau \phi φ=phi \varphi=phi \chi \psi \omega ω=omega \Gamma \Delta
      Δ=Delta \Lambda \Sigma \Phi \Psi \Omega \ell \triangle \ldots \dots=ldots \cdots=ldots
      …=ldots)"},
    {Token::mark,
     R"(\choose + - −=- –=- / \div=/ ÷=/ * \cdot=* \times=* ×=* ·=* ⋅=* \pm=p ±=p \mp=m ∓=m ^
      **=^ _ ' \prime=' ’=' = < > \lt=< \gt=> <==l \le=l \leq=l \leqslant=l ≤=l >==g \ge=g \geq=g
      \geqslant=g ≥=g !==! \ne=! \neq=! ≠=! \in=e ∈=e \approx=~ ≈=~ : \colon=: \cup=U ∪=U \cap=N
      ∩=N \setminus=\ , ;=, & \\=newline ( \langle=( ⟨=( ) \rangle=) ⟩=) [ ] { } \{=\{ \lbrace=\{
      \}=\} \rbrace=\} | \lvert=| \rvert=| \vert=| \mid \lfloor \rfloor \lceil \rceil !=factorial
      \circ=deg \degree=deg °=deg ²=2 ³=3 \emptyset \varnothing=emptyset ∅=emptyset
      \begin{matrix}=matrix \begin{pmatrix}=matrix \begin{bmatrix}=matrix \begin{Bmatrix}=matrix
      \begin{array}=array \end{matrix}=end \end{pmatrix}=end \end{bmatrix}=end \end{Bmatrix}=end
      \end{array}=end)"},
    {Token::fraction, "½=12 ⅓=13 ⅔=23 ¼=14 ¾=34 ⅕=15 ⅖=25 ⅗=35 ⅘=45 ⅙=16 ⅚=56 ⅛=18 ⅜=38 ⅝=58 ⅞=78"},
    {Token::layout,
     R"(\left \right \big \Big \bigl \bigr \Bigl \Bigr \bigg \Bigg \displaystyle \textstyle \quad
      \qquad \! \, \; \: \= \( \) \[ \] \$ $ \% % ~ . € £ \angle \rm \bf \boxed \fbox \mathbf
      \boldsymbol \mathit \mathcal \noindent)"},
    {Token::number,
     "zero=0 one=1 two=2 three=3 four=4 five=5 six=6 seven=7 eight=8 nine=9 ten=10 eleven=11 "
     "twelve=12 dozen=12 hundred=100 thousand=1000 million=1000000 billion=1000000000 "
     "trillion=1000000000000"},
    {Token::clock, "am pm AM PM"},
    {Token::unit,
     R"(cm mm km ft foot feet yd mi kg mg lb oz gm mph kph rpm sec min hr sq cu deg per percent
      unit square cubic inch inche yard mile meter metre centimeter kilometer millimeter gram
      kilogram pound ounce ton liter litre gallon second minute hour day week month year acre
      degree radian dollar cent usd USD euro yen rupee yuan point way people time)"}};

/// The known name, or nullptr.
const Token* find_name(std::string_view spelling) {
  static const auto table = [] {
    std::map<std::string, Token, std::less<>> names;
    for (const auto& [type, spellings] : kNames) {
      std::istringstream words{std::string(spellings)};
      for (std::string word; words >> word;) {
        const size_t equals =
            word.find('=', 1) == std::string::npos ? word.size() : word.rfind('=');
        const bool command = word.size() > 1 && word[0] == '\\';
        names[word.substr(0, equals)] = {type,
                                         word.substr(equals < word.size() ? equals + 1 : command)};
      }
    }
    return names;
  }();
  const auto found = table.find(spelling);
  return found == table.end() ? nullptr : &found->second;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_text(char c) { return is_letter(c) || c == '.'; }  // "p.m."
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool contains(std::string_view words, std::string_view word) {
  return words.find(" " + std::string(word) + " ") != std::string_view::npos;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {
    while (at_ < text_.size()) token();
    while (last_is(",") || last_is("newline")) tokens.pop_back();
    if (text_depth_ > 0 || tokens.empty()) throw Unreadable();
    tokens.push_back({});
  }
  std::vector<Token> tokens;

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool last_is(std::string_view mark) const { return !tokens.empty() && tokens.back().is(mark); }
  bool starts_with(std::string_view start) const { return text_.substr(at_).starts_with(start); }
  std::string run_of(bool (*belongs)(char)) {
    const size_t start = at_;
    while (at_ < text_.size() && belongs(text_[at_])) ++at_;
    return std::string(text_.substr(start, at_ - start));
  }

  void token() {
    const char c = peek();
    if (is_digit(c) || (c == '.' && is_digit(peek(1)))) return number();
    if (is_letter(c)) return word();
    const bool in_text = text_depth_ > 0 &&
                         std::string_view("{}-/.").find(c) != std::string_view::npos &&
                         !(c == '-' && is_digit(peek(1)));
    if (in_text) text_depth_ += (c == '{') - (c == '}');
    if (!in_text && !is_space(c)) return name();
    ++at_;
  }

  /// A command, or the longest known run of other characters.
  void name() {
    const bool command = peek() == '\\' && is_letter(peek(1));
    size_t size = command ? 1 : 3;
    while (command && is_letter(peek(size))) ++size;
    if (starts_with("\\begin{") || starts_with("\\end{")) size = text_.find('}', at_) - at_ + 1;
    const Token* token = find_name(text_.substr(at_, size));
    while (!token && !command && --size > 0) token = find_name(text_.substr(at_, size));
    if (!token) throw Unreadable();
    at_ += std::min(size, text_.size() - at_);
    push(*token);
  }

  void push(const Token& token) {
    if (token.type == Token::layout) return;
    if (token.type == Token::fraction) {
      tokens.insert(tokens.end(), {{Token::command, "frac"}, {Token::number, token.text}});
    } else if (token.type == Token::command && token.text == "text" && peek() == '{') {
      ++text_depth_;
      ++at_;
    } else if (token.type == Token::command && token.text == "phantom") {  // an invisible sign
      at_ = std::min(peek() == '{' ? text_.find('}', at_) : at_ + 1, text_.size() - 1) + 1;
    } else if (!(token.is(",") && last_is(","))) {  // "3, 5, and 7" has one before the 7
      depth_ += token.type == Token::mark && contains(" ( [ \\{ matrix array ", token.text);
      depth_ -= token.type == Token::mark && contains(" ) ] \\} end ", token.text);
      if (token.is("2") || token.is("3")) tokens.push_back({Token::mark, "^"});  // a raised digit
      tokens.push_back(token.is("2") || token.is("3") ? Token{Token::number, token.text} : token);
    }
  }

  void word() {
    std::string name = run_of(text_depth_ > 0 ? is_text : is_letter);
    std::erase(name, '.');
    if (name == "and" || name == "or") return push({Token::mark, ","});
    const bool quoted = text_depth_ > 0 && name != "i" && name != "e";
    if (quoted && last_is("/")) tokens.pop_back();  // "\text{m}/\text{s}"
    const Token *command = find_name("\\" + name), *unit = find_name(name);
    if (!unit && name.back() == 's') unit = find_name(name.substr(0, name.size() - 1));
    const Token::Type known = unit ? unit->type : Token::end;
    if (known == Token::number) {  // "2 million"
      if (after_value()) push({Token::mark, "*"});
      return push(*unit);
    }
    const bool clock = known == Token::clock && (quoted || name[0] < 'a');
    if (after_value() && clock) return push({Token::quoted, name});
    if (after_value() && (quoted || known == Token::unit)) return skip_unit_end();
    const bool value =
        command && name.size() > 1 && (command->type <= Token::function || name == "sqrt");
    if (value && (!quoted || command->type == Token::function)) return push(*command);
    push({quoted ? Token::quoted : name.size() == 1 ? Token::letter : Token::word, name});
  }
  bool after_value() const {
    const Token last = tokens.empty() ? Token{} : tokens.back();
    if (last.type == Token::mark) return contains(" ) ] } | deg ", last.text);
    return last.type == Token::number || (last.type == Token::letter && tokens.size() > 1);
  }
  /// After a unit: the "^2" of "cm^2" and of "\text{cm}^2", the "/h" of "km/h".
  void skip_unit_end() {
    const bool closes = starts_with("}^");
    if (closes || peek() == '^') {
      text_depth_ -= closes;
      at_ = std::min(at_ + closes + (peek(1 + closes) == '{' ? 4 : 2), text_.size());
    } else if (peek() == '/' && is_letter(peek(1))) {
      ++at_;
      run_of(is_letter);
      skip_unit_end();
    }
  }

  /// Digits, thousands separators, decimals, an exponent such as e-5.
  void number() {
    const bool in_list = at_ > 0 && text_[at_ - 1] == ',';
    Token token{Token::number, run_of(is_digit)};
    const bool bare_comma = depth_ == 0 && !in_list && token.text[0] != '0',
               groups = token.text.size() <= 3;
    while (groups && thousands(bare_comma)) token.text += run_of(is_digit);
    if (peek() == '.' && (is_digit(peek(1)) || peek(1) == '\\')) {  // 0.5, or 0.\overline{5}
      ++at_;
      const std::string decimals = run_of(is_digit);
      token.text += decimals;
      token.scale = -static_cast<int64_t>(decimals.size());
    }
    const bool negative = peek(1) == '-', sign = negative || peek(1) == '+';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      at_ += 1 + sign;
      const std::string exponent = run_of(is_digit);
      if (exponent.size() > 6) throw Unreadable();
      token.scale += (negative ? -1 : 1) * std::stol(exponent);
    }
    push(token);
  }

  /// Moves past a separator if three digits, and not four, follow it. A bare comma separates
  /// thousands only outside of brackets, in "1,234,567" but not in "1,2,100" or "0,100".
  bool thousands(bool bare_comma) {
    const size_t start = at_;
    for (const std::string_view separator :
         {"{,}", " {,}", "\\!,", ",\\!", ", \\!", "\\,", "\\ ", "\\;", ","}) {
      if (!starts_with(separator)) continue;
      at_ += separator.size();
      if (separator != ",") run_of(is_space);
      const size_t group = at_;
      const bool fits = run_of(is_digit).size() == 3 && (separator != "," || bare_comma);
      at_ = fits ? group : start;
      return fits;
    }
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
  int text_depth_ = 0;  // braces open since \text
  int depth_ = 0;       // brackets open
};

// ---- Trees ----

Node number_node(std::string digits, int64_t scale = 0) {
  return {Kind::number, std::move(digits), {}, scale};
}
Node symbol(std::string name) { return {Kind::symbol, std::move(name)}; }
Node call(std::string name, Node x) { return {Kind::call, std::move(name), {std::move(x)}}; }
Node power_node(Node base, Node exponent) {
  return {Kind::power, "", {std::move(base), std::move(exponent)}};
}
Node inverse(Node node) { return power_node(std::move(node), number_node("-1")); }
Node quotient(Node a, Node b) { return {Kind::product, "", {std::move(a), inverse(std::move(b))}}; }

/// A sum, product, ... of one node is that node.
Node collapse(Kind kind, std::vector<Node> args, std::string name = {}) {
  return args.size() == 1 ? args[0] : Node{kind, std::move(name), std::move(args)};
}

/// factor * node, written into the entries of a matrix.
Node scaled(const Node& factor, Node node) {
  if (node.name != "matrix" && node.name != "row")
    return {Kind::product, "", {factor, std::move(node)}};
  for (Node& arg : node.args) arg = scaled(factor, std::move(arg));
  return node;
}

Node negated(Node node) { return scaled(number_node("-1"), std::move(node)); }
Node interval(const Node& low, const Node& high) { return {Kind::tuple, "()", {low, high}}; }
Node real_line() { return interval(negated(symbol("infty")), symbol("infty")); }
bool is_integer(const Node& node) { return node.kind == Kind::number && node.scale == 0; }

/// Whether it is a fraction of two integers below 1, as in a mixed number.
bool is_proper(const Node& node) {
  if (node.kind != Kind::product || node.args.size() != 2 || node.args[1].kind != Kind::power)
    return false;
  const Node &top = node.args[0], &bottom = node.args[1].args[0];
  const auto order = [](const Node& n) { return std::pair(n.name.size(), n.name); };
  return is_integer(top) && is_integer(bottom) && order(top) < order(bottom);
}

/// All numbers but one.
Node all_but(const Node& x) {
  return {Kind::tuple, "U", {interval(negated(symbol("infty")), x), interval(x, symbol("infty"))}};
}

/// Turns > into <, a = b = c into a = c, and x != a into x \in (-infinity, a) U (a, infinity).
Node turned(Node node) {
  const auto is_variable = [](const Node& n) { return n.kind == Kind::symbol && has_variable(n); };
  if (node.name == "!" && is_variable(node.args[0]) != is_variable(node.args[1])) {
    const bool swapped = is_variable(node.args[1]);
    if (!has_variable(node.args[!swapped]))
      return {Kind::relation, "e", {node.args[swapped], all_but(node.args[!swapped])}};
  }
  const bool equation = node.name.find_first_not_of('=') == std::string::npos;
  if (equation) return {Kind::relation, "=", {node.args.front(), node.args.back()}};
  if (node.name.find_first_not_of(">g") == std::string::npos) {
    std::reverse(node.args.begin(), node.args.end());
    std::reverse(node.name.begin(), node.name.end());
    for (char& c : node.name) c = c == '>' ? '<' : 'l';
  }
  return node;
}

// ---- Recursive descent, from the loosest binding to the tightest ----

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Node run() {
    Node node = list();
    return peek().type == Token::end ? node : fail();
  }

 private:
  using Rule = Node (Parser::*)();

  Token& peek(size_t ahead = 0) { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() {
    const Token token = peek();
    at_ += token.type != Token::end;
    return token;
  }
  bool is_mark(std::string_view marks) {
    return peek().type == Token::mark && contains(marks, peek().text);
  }
  bool is_command(std::string_view name) {
    return peek().type == Token::command && peek().text == name;
  }
  bool take(std::string_view mark) {
    const bool found = peek().is(mark);
    at_ += found;
    return found;
  }
  Node fail() { throw Unreadable(); }
  Node expect(std::string_view mark, Node node) { return take(mark) ? node : fail(); }
  Node nested(Rule rule) {  // limits the recursion
    if (++depth_ > kMaxDepth) fail();
    Node node = (this->*rule)();
    --depth_;
    return node;
  }

  Node chain(Kind kind, std::string_view operators, Rule part) {
    std::vector<Node> parts{(this->*part)()};
    std::string name;
    while (is_mark(operators)) {
      name += next().text;
      parts.push_back((this->*part)());
    }
    return collapse(kind, std::move(parts), std::move(name));
  }
  Node list() { return chain(Kind::set, " , ", &Parser::relation); }
  Node relation() {
    take("~");
    Node node = chain(Kind::relation, " = < > l g ! e ~ ", &Parser::ratio);
    return node.kind == Kind::relation ? turned(std::move(node)) : node;
  }
  Node ratio() { return chain(Kind::tuple, " : ", &Parser::join); }
  Node join() {
    Node node = chain(Kind::tuple, " U N \\ ", &Parser::operand);
    const bool one_less = node.name == "\\" && node.args[0].name == "()" &&
                          node.args[0].args[1].name == "infty" && node.args[1].kind == Kind::set &&
                          node.args[1].args.size() == 1;
    return one_less ? all_but(node.args[1].args[0]) : node;  // \mathbb{R} \setminus \{2\}
  }

  /// Words or an expression. Two to four bare lower-case letters, such as xy, may be both.
  Node operand() {
    const size_t start = at_;
    std::string letters;
    bool has[Token::mark] = {}, capital = false;
    for (; peek().type >= Token::number && peek().type <= Token::quoted; ++at_) {
      for (const char c : peek().text) {
        capital |= c >= 'A' && c <= 'Z';
        letters += c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
      }
      has[peek().type] = true;
    }
    if ((has[Token::quoted] || (has[Token::word] && !has[Token::number])) && take("_"))
      letters += "_" + subscript();
    const size_t end = at_;
    const bool ends = peek().type == Token::end ||
                      is_mark(" , = < > l g ! e ~ : U N \\ & ) ] } \\} newline end ");
    const bool words = has[Token::word] && !has[Token::number] && ends;
    at_ = start;
    if (!has[Token::quoted] && !words) return sum();
    Node node = letters == "allrealnumbers" ? real_line() : Node{Kind::text, letters};
    if (!has[Token::quoted] && !capital && letters.size() <= 4) node.args.push_back(product());
    at_ = end;
    return node;
  }

  Node sum() {
    std::vector<Node> terms;
    do terms.push_back(with_sign(&Parser::product));
    while (is_mark(" + - p m "));
    Node node = collapse(Kind::sum, std::move(terms));
    if (!take("choose")) return node;
    Node chosen = sum();  // apart: where this throws in a braced list, GCC 12 cleans up wrongly
    return {Kind::call, "binom", {std::move(node), std::move(chosen)}};
  }

  Node with_sign(Rule part) {
    std::string signs;
    while (is_mark(" + - p m ")) signs += next().text;
    Node node = (this->*part)();
    if (std::count(signs.begin(), signs.end(), '-') % 2 == 1) node = negated(std::move(node));
    const size_t either = signs.find_first_of("pm");
    return either == std::string::npos
               ? node
               : scaled(symbol(signs[either] + std::string("m")), std::move(node));
  }

  bool starts_factor() {
    if (peek().is("|")) return !in_bars_;
    if (peek().type == Token::mark)
      return is_mark(" ( [ { \\{ lfloor lceil matrix array deg emptyset ");
    return peek().type != Token::end && peek().type != Token::quoted;
  }

  Node product() {
    std::vector<Node> factors{power()};
    while (is_mark(" * / ") || starts_factor()) {
      const bool implicit = starts_factor(), divides = peek().is("/"), frac = is_command("frac");
      const bool numbers = peek().type == Token::number && factors.back().kind == Kind::number;
      at_ += !implicit;
      Node factor = implicit ? power() : with_sign(&Parser::power);
      if (numbers) factor = take("/") ? quotient(std::move(factor), power()) : fail();
      // 1\frac{4}{5}, 1 4/5
      if ((frac || numbers) && is_integer(factors.back()) && is_proper(factor)) {
        factors.back() = {Kind::sum, "", {factors.back(), std::move(factor)}};
      } else {
        factors.push_back(numbers   ? fail()
                          : divides ? inverse(std::move(factor))
                                    : std::move(factor));
      }
    }
    Node last = std::move(factors.back());
    factors.pop_back();
    return factors.empty() ? last
                           : scaled(collapse(Kind::product, std::move(factors)), std::move(last));
  }

  Node power() {
    Node base = nested(&Parser::atom);
    for (int i = 0; i < kMaxDepth && is_mark(" ^ factorial "); ++i) {
      if (next().text == "factorial") {
        base = call("factorial", std::move(base));
      } else {
        const Node exponent = nested(&Parser::exponent);
        base = collapse(exponent.name == "deg" ? Kind::product : Kind::power, {base, exponent});
      }
    }
    return base;
  }

  /// What follows a ^: a group or one signed power, so that a^b^c is a^(b^c). "2^10" is 1024, not
  /// 2^1 0 as in TeX.
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
    Node first = symbol(token.text.substr(0, 1));  // the letters of a word one by one
    token.text.erase(0, 1);
    if (token.text.size() == 1) token.type = Token::letter;
    return first;
  }

  Node number() {
    const Token token = next();
    if (take("_"))
      return symbol(token.text + "_" + subscript());  // 12_3 is no other number than 12_3
    Node node = number_node(token.text, token.scale);
    if (!is_command("overline") && !is_command("bar")) return node;  // 0.1\overline{6}
    ++at_;
    const std::string tail = subscript(), nines(tail.size(), '9');
    if (!std::all_of(tail.begin(), tail.end(), is_digit)) fail();
    return collapse(Kind::sum,
                    {node, quotient(number_node(tail, token.scale), number_node(nines))});
  }

  Node letter() {
    std::string name = next().text;
    const bool may_call = name == "f" || name == "g" || name == "h";
    while (take("'")) name += '\'';
    if (take("_")) name += "_" + subscript();
    return may_call && take("(") ? call("unknown " + name, expect(")", list()))
                                 : symbol(std::move(name));
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
    if (peek().is("{")) return group();
    if (peek().type != Token::number || peek().text.size() == 1 || peek().scale != 0)
      return nested(&Parser::atom);
    Node digit = number_node(peek().text.substr(0, 1));
    peek().text.erase(0, 1);
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
      return power_node(nested(&Parser::atom), inverse(std::move(index)));
    }
    const std::string what = subscript();
    return name == "mathbb" && what == "R" ? real_line()
                                           : symbol(name + " " + what);  // \vec{v}, \overline{AB}
  }

  /// \sin^2 x, \log_2 (x): without brackets the argument is a product up to the next function, as
  /// in \sin 5x \cos x.
  Node function() {
    const std::string name = next().text;
    Node base = take("_") ? argument() : number_node("10");
    Node exponent = take("^") ? nested(&Parser::exponent) : number_node("1");
    const bool was_in_angle =
        std::exchange(in_angle_, name.size() == 3 && name != "exp" && name != "log");
    const bool bracketed = is_mark(" ( { ");
    std::vector<Node> factors{bracketed ? nested(&Parser::atom) : power()};
    while (!bracketed && starts_factor() && peek().type != Token::function)
      factors.push_back(power());
    in_angle_ = was_in_angle;
    Node x = collapse(Kind::product, std::move(factors));
    const bool inverted = exponent.kind == Kind::product && exponent.args[0].name == "-1" &&
                          exponent.args[1].name == "1";
    if (inverted) return call("arc" + name, std::move(x));
    Node value = call(name, x);
    if (name == "exp") value = power_node(symbol("e"), std::move(x));
    if (name == "log") value = quotient(call("ln", std::move(x)), call("ln", std::move(base)));
    return exponent.name == "1" ? value : power_node(std::move(value), std::move(exponent));
  }

  /// Round and square brackets and braces group one node, or list several; \{ \} is always a set,
  /// except for the condition after a \mid.
  Node bracket() {
    const std::string open = next().text;
    if (open == "emptyset" || (open == "\\{" && take("\\}"))) return {Kind::set, "{}"};
    if (open == "deg")
      return {Kind::product,
              open,
              {in_angle_ ? quotient(symbol("pi"), number_node("180")) : number_node("1")}};
    if (open == "matrix" || open == "array") return matrix(open);
    if (open == "|") {
      in_bars_ = true;
      Node inside = sum();
      in_bars_ = false;
      return call("abs", expect(open, std::move(inside)));
    }
    if (open == "lfloor" || open == "lceil")
      return call(open.substr(1), expect("r" + open.substr(1), sum()));
    if (!contains(" ( [ { \\{ ", open)) return fail();
    const bool named =
        open == "\\{" && peek().type == Token::letter && (peek(1).is(":") || peek(1).is("|"));
    if (named) next(), next();  // "x :", "x |"
    Node node = list();
    const bool mid = !named && open == "\\{" && take("mid"), described = named || mid;
    if (mid) node = relation();
    const std::string close = next().text;
    const bool round = open == "(" || open == "[",
               listed = node.kind == Kind::set && node.name[0] == ',';
    if (round ? close != ")" && close != "]" : close != (open == "{" ? "}" : "\\}")) fail();
    if (round && listed) return {Kind::tuple, open + close, std::move(node.args)};
    if (round && (open == "(") != (close == ")")) fail();
    if (open != "\\{" || described) return node;
    return {Kind::set, "{}", listed ? std::move(node.args) : std::vector{std::move(node)}};
  }

  Node matrix(const std::string& open) {
    if (open == "array") subscript();  // its columns
    Node matrix{Kind::tuple, "matrix"};
    while (!take("end")) {
      matrix.args.push_back({Kind::tuple, "row", {operand()}});
      while (take("&")) matrix.args.back().args.push_back(operand());
      if (!take("newline") && !peek().is("end")) fail();
    }
    return matrix;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  bool in_angle_ = false;  // degrees count
  bool in_bars_ = false;   // the next | closes
};

}  // namespace

std::optional<Node> parse_answer(std::string_view text) try {
  if (text.size() > kMaxBytes) return std::nullopt;
  return Parser(Lexer(text).tokens).run();
} catch (const Unreadable&) {
  return std::nullopt;
}

bool has_variable(const Node& node) {
  return any_node(node, [](const Node& n) {
    return n.kind == Kind::symbol && !contains(" i e pi infty pm mp ", n.name);
  });
}

}  // namespace tiny_zero::math
