#include "tasks/math/lexer.h"

#include <algorithm>
#include <sstream>
#include <unordered_map>

namespace tiny_zero::math {
namespace {

/// What is known: "spelling", which without its backslash is the token's text, or "spelling=text".
constexpr std::pair<Token::Type, std::string_view> kNames[] = {
    {Token::command, R"(\frac \dfrac=frac \tfrac=frac \cfrac=frac \sqrt √=sqrt \binom \dbinom=binom \tbinom=binom
      \overline \bar \vec \overrightarrow=vec \hat \widehat=hat \tilde \mathbb \phantom
      \text \mbox=text \textbf=text \textrm=text \textit=text \textnormal=text \mathrm=text)"},
    {Token::function, R"(\sin \cos \tan \sec \csc \cot \arcsin \arccos \arctan \log \ln \lg=log \exp)"},
    {Token::letter, R"(\pi π=pi \theta θ=theta \infty ∞=infty \infinity=infty \alpha α=alpha \beta β=beta \gamma γ=gamma
      \delta \epsilon \varepsilon=epsilon \zeta \eta \kappa \lambda λ=lambda \mu μ=mu \nu \xi \rho \sigma σ=sigma \tau
      \phi φ=phi \varphi=phi \chi \psi \omega ω=omega \Gamma \Delta Δ=Delta \Lambda \Sigma \Phi \Psi \Omega \ell
      \triangle \ldots \dots=ldots \cdots=ldots …=ldots)"},
    {Token::mark, R"(+ - −=- –=- / \div=/ ÷=/ * \cdot=* \times=* ×=* ·=* ⋅=* \pm=p ±=p \mp=m ∓=m ^ **=^ _ ' \prime=' ’='
      = < > \lt=< \gt=> <==l \le=l \leq=l \leqslant=l ≤=l >==g \ge=g \geq=g \geqslant=g ≥=g !==! \ne=! \neq=! ≠=! \in=e
      ∈=e \approx=~ ≈=~ : \colon=: \cup=U ∪=U \cap=N ∩=N \setminus=\ , ;=, & \\=newline ( \langle=( ⟨=( ) \rangle=) ⟩=)
      [ ] { } \{=\{ \lbrace=\{ \}=\} \rbrace=\} | \lvert=| \rvert=| \vert=| \mid \lfloor \rfloor \lceil \rceil
      !=factorial \circ=deg \degree=deg °=deg ²=2 ³=3 . \emptyset \varnothing=emptyset ∅=emptyset
      \begin{matrix}=matrix \begin{pmatrix}=matrix \begin{bmatrix}=matrix \begin{Bmatrix}=matrix \begin{array}=array
      \end{matrix}=end \end{pmatrix}=end \end{bmatrix}=end \end{Bmatrix}=end \end{array}=end)"},
    {Token::layout, R"(\left \right \big \Big \bigl \bigr \Bigl \Bigr \bigg \Bigg \displaystyle \textstyle \quad \qquad
      \! \, \; \: \= \( \) \[ \] \$ $ \% % ~ € £ \angle \rm \bf \boxed \fbox \mathbf \boldsymbol \mathit \mathcal
      \operatorname \noindent)"},
    {Token::multiplier, "hundred thousand million billion trillion dozen am pm AM PM"},
    {Token::unit, R"(cm mm km ft foot feet yd mi kg mg lb oz gm mph kph rpm sec min hr sq cu deg per percent unit square
      cubic inch inche yard mile meter metre centimeter kilometer millimeter gram kilogram pound ounce ton liter litre
      gallon second minute hour day week month year acre degree radian dollar cent usd USD euro yen rupee yuan point way
      people time)"}};

/// The known name, or nullptr.
const Token* find_name(const std::string& spelling) {
  static const auto table = [] {
    std::unordered_map<std::string, Token> names;
    for (const auto& [type, spellings] : kNames) {
      std::istringstream words{std::string(spellings)};
      for (std::string word; words >> word;) {
        const size_t equals = word.rfind('=');
        const bool renamed = equals != std::string::npos && equals > 0, command = word.size() > 1 && word[0] == '\\';
        names[word.substr(0, renamed ? equals : word.size())] = {type, word.substr(renamed ? equals + 1 : command)};
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
    const bool brace = text_depth_ > 0 && (c == '{' || c == '}');
    if (brace) text_depth_ += c == '{' ? 1 : -1;
    const bool punctuation = text_depth_ > 0 && (c == '-' || c == '/' || c == '.');
    if (!brace && !punctuation && !is_space(c)) return name();
    ++at_;
  }

  /// A command, or the longest known run of other characters.
  void name() {
    const bool command = peek() == '\\' && is_letter(peek(1));
    size_t size = command ? 1 : 3;
    while (command && is_letter(peek(size))) ++size;
    if (starts_with("\\begin{") || starts_with("\\end{")) size = text_.find('}', at_) - at_ + 1;
    const auto known = [&] { return find_name(std::string(text_.substr(at_, size))); };
    while (!command && size > 1 && !known()) --size;
    const Token* token = known();
    failed_ = !token;
    at_ += std::min(size, text_.size() - at_);
    if (token) push(*token);
  }

  void push(const Token& token) {
    if (token.type == Token::layout) return;
    if (token.type == Token::command && token.text == "text" && peek() == '{') {
      ++text_depth_;
      ++at_;
    } else if (token.type == Token::command && token.text == "phantom") {  // an invisible sign
      at_ = std::min(peek() == '{' ? text_.find('}', at_) : at_ + 1, text_.size() - 1) + 1;
    } else if (token.is("2") || token.is("3")) {  // a raised digit
      tokens.push_back({Token::mark, "^"});
      tokens.push_back({Token::number, token.text});
    } else if (!token.is(",") || tokens.empty() || !tokens.back().is(",")) {  // "3, 5, and 7" has one before the 7
      depth_ += token.is("(") || token.is("[") || token.is("\\{") || token.is("matrix") || token.is("array");
      depth_ -= token.is(")") || token.is("]") || token.is("\\}") || token.is("end");
      tokens.push_back(token);
    }
  }

  void word() {
    const std::string run = run_of(text_depth_ > 0 ? is_text : is_letter);
    std::string name = run;
    std::erase(name, '.');
    if (name == "and" || name == "or") return push({Token::mark, ","});
    const bool quoted = text_depth_ > 0 && name != "i" && name != "e";
    const Token *command = find_name("\\" + name), *unit = find_name(name);
    if (!unit && name.back() == 's') unit = find_name(name.substr(0, name.size() - 1));
    const Token::Type known = unit ? unit->type : Token::end;
    if (after_value() && (quoted ? known != Token::multiplier : known == Token::unit)) return skip_power();
    const bool value = command && (command->type <= Token::function || name == "sqrt");
    if (quoted) return push({Token::quoted, name});
    push(value && name.size() > 1 ? *command : Token{name.size() == 1 ? Token::letter : Token::word, name});
  }
  bool after_value() const {
    if (tokens.empty()) return false;
    const Token& t = tokens.back();
    const bool closed = t.is(")") || t.is("]") || t.is("}") || t.is("|") || t.is("deg");
    return closed || t.type == Token::number || (t.type == Token::letter && tokens.size() > 1);
  }
  /// Behind a unit: the "^2" of "cm^2" and of "\text{cm}^2".
  void skip_power() {
    const bool closes = starts_with("}^");
    if (!closes && peek() != '^') return;
    text_depth_ -= closes;
    at_ = std::min(at_ + closes + (peek(1 + closes) == '{' ? 4 : 2), text_.size());
  }

  /// Digits, thousands separators, decimals, an exponent such as e-5.
  void number() {
    const bool in_list = at_ > 0 && text_[at_ - 1] == ',';
    Token token{Token::number, run_of(is_digit)};
    const bool bare_comma = depth_ == 0 && !in_list && token.text[0] != '0', groups = token.text.size() <= 3;
    while (groups && thousands(bare_comma)) token.text += run_of(is_digit);
    if (peek() == '.' && (is_digit(peek(1)) || peek(1) == '\\')) {  // 0.5, or 0.\overline{5}
      ++at_;
      const std::string decimals = run_of(is_digit);
      token.text += decimals;
      token.scale = -static_cast<int64_t>(decimals.size());
    }
    const bool sign = peek(1) == '-' || peek(1) == '+', negative = peek(1) == '-';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
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
  bool failed_ = false;
};

}  // namespace

std::optional<std::vector<Token>> tokenize(std::string_view text) {
  Lexer lexer(text);
  if (!lexer.run()) return std::nullopt;
  auto& tokens = lexer.tokens;
  const auto idle = [](const Token& t) { return t.is(".") || t.is(",") || t.is("newline"); };
  while (!tokens.empty() && idle(tokens.back())) tokens.pop_back();
  tokens.push_back({});
  return std::move(tokens);
}

}  // namespace tiny_zero::math
