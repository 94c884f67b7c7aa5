#include "tasks/math/lexer.h"

#include <algorithm>
#include <sstream>
#include <unordered_map>

namespace tiny_zero::math {
namespace {

/// What is known: "spelling", which then is the text of the token but for the backslash, or "spelling=text".
constexpr std::pair<Token::Type, std::string_view> kNames[] = {
    {Token::command, R"(\frac \dfrac=frac \tfrac=frac \cfrac=frac \sqrt √=sqrt \binom \dbinom=binom \tbinom=binom)"},
    {Token::command, R"(\overline \bar \vec \overrightarrow=vec \hat \widehat=hat \tilde \mathbb \phantom)"},
    {Token::command, R"(\text \mbox=text \textbf=text \textrm=text \textit=text \textnormal=text \mathrm=text)"},
    {Token::function,
     R"(\sin \cos \tan \sec \csc \cot \arcsin \arccos \arctan \sinh \cosh \tanh \log \ln \lg=log \exp)"},
    {Token::letter,
     R"(\pi π=pi \theta θ=theta \infty ∞=infty \infinity=infty \alpha α=alpha \beta β=beta \gamma γ=gamma)"},
    {Token::letter, R"(\delta \epsilon \varepsilon=epsilon \zeta \eta \kappa \lambda λ=lambda \mu μ=mu \nu \xi \rho)"},
    {Token::letter,
     R"(\sigma σ=sigma \tau \phi φ=phi \varphi=phi \chi \psi \omega ω=omega \Gamma \Delta Δ=Delta \Lambda)"},
    {Token::letter, R"(\Sigma \Phi \Psi \Omega \ell \triangle \ldots \dots=ldots \cdots=ldots …=ldots)"},
    {Token::mark,
     R"(+ - −=- –=- / \div=/ ÷=/ * \cdot=* \times=* ×=* ·=* ⋅=* \pm=p ±=p \mp=m ∓=m ^ **=^ _ ' \prime=' ’=')"},
    {Token::mark,
     R"(= < > \lt=< \gt=> <==l \le=l \leq=l \leqslant=l ≤=l >==g \ge=g \geq=g \geqslant=g ≥=g !==! \ne=!)"},
    {Token::mark,
     R"(\neq=! ≠=! \in=e ∈=e \approx=~ ≈=~ : \colon=: \cup=U ∪=U \cap=N ∩=N \setminus=\ , ;=, & \\=newline)"},
    {Token::mark,
     R"(( \langle=( ⟨=( ) \rangle=) ⟩=) [ ] { } \{ \lbrace={ \} \rbrace=} | \lvert=| \rvert=| \vert=| \mid)"},
    {Token::mark, R"(\lfloor \rfloor \lceil \rceil !=factorial \circ=deg \degree=deg °=deg ²=2 ³=3 . ?)"},
    {Token::mark, R"(\emptyset \varnothing=emptyset ∅=emptyset \begin{pmatrix}=matrix \begin{bmatrix}=matrix)"},
    {Token::mark, R"(\begin{matrix}=matrix \begin{Bmatrix}=matrix \begin{smallmatrix}=matrix \begin{array}=array)"},
    {Token::mark, R"(\end{pmatrix}=end \end{bmatrix}=end \end{matrix}=end \end{Bmatrix}=end \end{smallmatrix}=end)"},
    {Token::mark, R"(\end{array}=end)"},
    {Token::end, R"(\left \right \big \Big \bigl \bigr \Bigl \Bigr \bigg \Bigg \displaystyle \textstyle \quad \qquad)"},
    {Token::end,
     R"(\! \, \; \: \= \( \) \[ \] \$ $ \% % ~ € £ \angle \rm \bf \boxed \fbox \mathbf \boldsymbol \mathit)"},
    {Token::end, R"(\mathcal \operatorname \noindent)"}};

using Names = std::unordered_map<std::string, Token>;

const Names& names() {
  static const Names table = [] {
    Names result;
    for (const auto& [type, spellings] : kNames) {
      std::istringstream words{std::string(spellings)};
      for (std::string word; words >> word;) {
        const size_t equals = word.rfind('=');
        const bool renamed = equals != std::string::npos && equals > 0;
        const bool named = word.size() > 1 && word[0] == '\\' && word != "\\{" && word != "\\}";
        result[word.substr(0, renamed ? equals : word.size())] =
            Token{type, renamed ? word.substr(equals + 1) : word.substr(named)};
      }
    }
    return result;
  }();
  return table;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// Names that are read without a backslash too: sin, pi, sqrt.
bool is_value(const Token& t) { return t.type == Token::function || t.type == Token::letter || t.text == "sqrt"; }

bool contains_word(std::string_view words, const std::string& word) {
  return words.find(" " + word + " ") != std::string_view::npos;
}

/// Behind a value any word of \text measures, unless it changes the value; a bare word must be a known one.
bool is_unit(const Token& token) {
  if (token.type == Token::quoted) {
    return !contains_word(" hundred thousand million billion trillion dozen am pm ", token.text);
  }
  const bool plural = token.text.size() > 2 && token.text.back() == 's';
  return token.type == Token::word &&
         contains_word(
             " cm mm km ft foot feet yd mi kg mg lb oz gm mph kph rpm sec min hr sq cu deg per percent unit square "
             "cubic "
             "inch inche yard mile meter metre centimeter kilometer millimeter gram kilogram pound ounce ton liter "
             "litre "
             "gallon second minute hour day week month year acre degree radian dollar cent usd USD euro yen rupee yuan "
             "point way people time ",
             token.text.substr(0, token.text.size() - plural));
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  bool run() {
    while (at_ < text_.size() && !failed_) token();
    return !failed_ && text_depth_ == 0;
  }
  std::vector<Token> tokens;

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  std::string_view rest() const { return text_.substr(at_); }
  std::string run_of(bool (*belongs)(char)) {
    const size_t start = at_;
    while (at_ < text_.size() && belongs(text_[at_])) ++at_;
    return std::string(text_.substr(start, at_ - start));
  }

  void token() {
    const char c = peek();
    if (is_digit(c) || (c == '.' && is_digit(peek(1)))) return number();
    if (is_letter(c)) return word();
    if (is_space(c) || (text_depth_ > 0 && (c == '-' || c == '/' || c == '.'))) {
      ++at_;
    } else if (text_depth_ > 0 && (c == '{' || c == '}')) {
      text_depth_ += c == '{' ? 1 : -1;
      ++at_;
    } else {
      name();
    }
  }

  /// A command, or the longest known run of other characters.
  void name() {
    size_t size = 3;
    const bool command = peek() == '\\' && is_letter(peek(1));
    if (command) {
      for (size = 1; is_letter(peek(size));) ++size;
      const bool environment = rest().starts_with("\\begin{") || rest().starts_with("\\end{");
      if (environment) size = std::min(rest().find('}'), rest().size() - 1) + 1;
    }
    auto found = names().find(std::string(rest().substr(0, size)));
    while (!command && found == names().end() && --size > 0) found = names().find(std::string(rest().substr(0, size)));
    failed_ = found == names().end();
    if (failed_) return;
    at_ += std::min(size, rest().size());
    push(found->second);
  }

  void push(const Token& token) {
    const std::string& text = token.text;
    if (token.type == Token::command && text == "text" && peek() == '{') {
      ++text_depth_;
      ++at_;
    } else if (token.type == Token::command && text == "phantom") {  // an invisible sign
      at_ = std::min(peek() == '{' ? text_.find('}', at_) : text_.find_first_not_of(' ', at_), text_.size() - 1) + 1;
    } else if (token.is("2") || token.is("3")) {  // a raised digit
      tokens.push_back({Token::mark, "^"});
      tokens.push_back({Token::number, text});
    } else if (token.is(",") && !tokens.empty() && tokens.back().is(",")) {
      return;  // "3, 5, and 7" has one separator before the 7
    } else if (token.type != Token::end) {
      tokens.push_back(token);
      depth_ += token.is("(") || token.is("[") || token.is("\\{") || token.is("matrix") || token.is("array");
      depth_ -= token.is(")") || token.is("]") || token.is("\\}") || token.is("end");
    } else if ((text == "left" || text == "right") && peek() == '.') {
      ++at_;
    }
  }

  void word() {
    const std::string run = run_of([](char c) { return is_letter(c); });
    const auto found = names().find("\\" + run);
    if (run == "and" || run == "or") {
      push({Token::mark, ","});
    } else if (text_depth_ > 0 && run != "i" && run != "e") {
      std::string text = run;
      for (char& c : text) c = static_cast<char>(c | 0x20);
      const bool dotted = at_ > run.size() && text_[at_ - run.size() - 1] == '.';  // p.m.
      if (dotted && !tokens.empty() && tokens.back().type == Token::quoted) {
        tokens.back().text += text;
      } else {
        push({Token::quoted, text});
      }
    } else if (run.size() > 1 && found != names().end() && is_value(found->second)) {
      push(found->second);
    } else {
      push({run.size() == 1 ? Token::letter : Token::word, run});
    }
  }

  /// Digits, thousands separators, decimals, a part that repeats, an exponent such as e-5.
  void number() {
    const bool in_list = at_ > 0 && text_[at_ - 1] == ',';
    Token token{Token::number, run_of(is_digit)};
    const bool bare_comma = depth_ == 0 && !in_list && token.text[0] != '0';
    const bool groups = token.text.size() <= 3;
    while (groups && thousands(bare_comma)) token.text += run_of(is_digit);
    const auto repeats = [&](size_t at) {
      const std::string_view tail = text_.substr(std::min(at, text_.size()));
      return tail.starts_with("\\overline{") || tail.starts_with("\\bar{") || tail.starts_with("\\dot{");
    };
    if (peek() == '.' && (is_digit(peek(1)) || repeats(at_ + 1))) {
      ++at_;
      const std::string decimals = run_of(is_digit);
      token.text += decimals;
      token.scale = -static_cast<int64_t>(decimals.size());
      if (repeats(at_)) {
        at_ = text_.find('{', at_) + 1;
        token.repeat = run_of(is_digit);
        failed_ = token.repeat.empty() || peek() != '}';
        ++at_;
      }
    }
    const size_t sign = peek(1) == '-' || peek(1) == '+';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      const bool negative = peek(1) == '-';
      at_ += 1 + sign;
      const std::string exponent = run_of(is_digit);
      failed_ |= exponent.size() > 6;
      if (!failed_) token.scale += (negative ? -1 : 1) * std::stol(exponent);
    }
    push(token);
  }

  /// Moves past a separator if three digits, and not four, follow it. A bare comma separates thousands only outside of
  /// brackets, in "1,234,567" but not in "1,2,100" or "0,100".
  bool thousands(bool bare_comma) {
    const size_t start = at_;
    for (const std::string_view separator : {"{,}", ",\\!", "\\,", "\\ ", "\\;", ","}) {
      if (!rest().starts_with(separator)) continue;
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
  bool failed_ = false;
};

/// Drops units behind a value, with their power.
std::vector<Token> without_units(std::vector<Token>& tokens) {
  std::vector<Token> kept;
  bool after_value = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    Token& token = tokens[i];
    if (after_value && is_unit(token)) {
      if (i + 2 < tokens.size() && tokens[i + 1].is("^")) i += tokens[i + 2].is("{") ? 4 : 2;
      continue;
    }
    after_value = token.type == Token::number || (token.type == Token::letter && !kept.empty()) || token.is(")") ||
                  token.is("]") || token.is("}") || token.is("|") || token.is("deg");
    kept.push_back(std::move(token));
  }
  return kept;
}

}  // namespace

std::optional<std::vector<Token>> tokenize(std::string_view text) {
  Lexer lexer(text);
  if (!lexer.run()) return std::nullopt;
  std::vector<Token> tokens = without_units(lexer.tokens);
  while (!tokens.empty() && (tokens.back().is(".") || tokens.back().is(",") || tokens.back().is("newline"))) {
    tokens.pop_back();
  }
  tokens.push_back({});
  return tokens;
}

}  // namespace tiny_zero::math
