#include "tasks/math/lexer.h"

#include <algorithm>
#include <unordered_map>

namespace tiny_zero::math {
namespace {

using Names = std::unordered_map<std::string_view, Token>;

/// Adds "spelling=text" or, where both are the same, "spelling" for each word of `spellings`.
void add(Names& names, Token::Type type, std::string_view spellings) {
  for (size_t at = 0; at < spellings.size();) {
    const size_t end = std::min(spellings.find(' ', at), spellings.size());
    const std::string_view item = spellings.substr(at, end - at);
    const size_t equals = item.find('=', 1);
    const std::string_view spelling = item.substr(0, equals);
    const std::string_view text = equals == std::string_view::npos ? spelling : item.substr(equals + 1);
    names[spelling] = Token{type, std::string(text)};
    at = end + 1;
  }
}

/// What a backslash may be followed by, and UTF-8 that stands for it. An empty mark is layout.
const Names& names() {
  static const Names table = [] {
    Names n;
    add(n, Token::command,
        "frac dfrac=frac tfrac=frac cfrac=frac sqrt root=sqrt √=sqrt binom dbinom=binom tbinom=binom");
    add(n, Token::command, "overline bar vec hat tilde widehat overrightarrow=vec mathbb");
    add(n, Token::command, "begin end phantom text mbox=text textbf=text textrm=text textit=text textnormal=text");
    add(n, Token::command, "mathrm=text textsf=text mathsf=text");
    add(n, Token::function, "sin cos tan sec csc cot arcsin arccos arctan asin=arcsin acos=arccos atan=arctan");
    add(n, Token::function, "sinh cosh tanh log ln lg=log exp");
    add(n, Token::letter, "pi π=pi theta θ=theta infty ∞=infty infinity=infty alpha α=alpha beta β=beta gamma delta");
    add(n, Token::letter, "epsilon varepsilon=epsilon zeta eta kappa lambda λ=lambda mu nu xi rho sigma tau phi φ=phi");
    add(n, Token::letter, "varphi=phi chi psi omega ω=omega Gamma Delta Lambda Sigma Phi Psi Omega ell triangle ldots");
    add(n, Token::letter, "dots=ldots cdots=ldots …=ldots");
    add(n, Token::mark, "cdot=* times=* ast=* ×=* ·=* ⋅=* div=/ ÷=/ −=- –=- pm ±=pm mp ∓=mp {=\\{ }=\\} lbrace=\\{");
    add(n, Token::mark, "rbrace=\\} langle=( rangle=) ⟨=( ⟩=) lvert=| rvert=| vert=| mid lfloor rfloor lceil rceil");
    add(n, Token::mark, "circ=deg degree=deg °=deg cup ∪=cup cap ∩=cap setminus in ∈=in prime=' ′=' ’='");
    add(n, Token::mark, "le=l leq=l leqslant=l ≤=l ge=g geq=g geqslant=g ≥=g lt=< gt=> ne=! neq=! ≠=! approx=~ ≈=~");
    add(n, Token::mark, "emptyset varnothing=emptyset ∅=emptyset colon=: \\=newline newline lbrack=[ rbrack=]");
    add(n, Token::mark, "²=2 ³=3");
    for (const auto layout :
         {"left",          "right",     "big",    "Big", "bigl",  "bigr", "Bigl",   "Bigr",       "bigg",   "Bigg",
          "displaystyle",  "textstyle", "limits", "!",   ",",     ";",    ":",      " ",          "\n",     "quad",
          "qquad",         "(",         ")",      "[",   "]",     "$",    "%",      "€",          "£",      "angle",
          "measuredangle", "rm",        "bf",     "it",  "boxed", "fbox", "mathbf", "boldsymbol", "mathit", "mathcal",
          "operatorname",  "noindent",  "\u00a0"}) {
      n[layout] = Token{Token::mark, ""};
    }
    return n;
  }();
  return table;
}

/// Bare words that measure; with \text any word does. One letter is a variable, and so are "in" and "am".
bool is_unit(std::string_view word) {
  constexpr std::string_view kUnits =
      " cm mm km ft foot feet yd mi kg mg lb oz gm mph kph rpm sec min hr sq cu deg per percent unit square cubic inch "
      "inche "
      "yard mile meter metre centimeter kilometer millimeter gram kilogram pound ounce ton liter litre gallon second "
      "minute hour day week month year acre degree radian dollar cent usd euro yen rupee yuan point way people time ";
  if (word.size() > 2 && word.back() == 's') word.remove_suffix(1);
  return kUnits.find(" " + std::string(word) + " ") != std::string_view::npos;
}

/// Text behind a value that changes it, so that it is no unit.
bool changes_value(std::string_view text) {
  constexpr std::string_view kWords = " hundred thousand million billion trillion dozen am pm ";
  return kWords.find(" " + std::string(text) + " ") != std::string_view::npos;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool all_digits(std::string_view text) { return !text.empty() && std::all_of(text.begin(), text.end(), is_digit); }

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  bool run() {
    while (at_ < text_.size() && !failed_) token();
    return !failed_;
  }
  std::vector<Token> tokens;

 private:
  bool take(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  void skip_spaces() {
    while (is_space(peek())) ++at_;
  }
  std::string_view digits() {
    const size_t start = at_;
    while (is_digit(peek())) ++at_;
    return text_.substr(start, at_ - start);
  }
  void push(Token::Type type, std::string text) { tokens.push_back({type, std::move(text)}); }
  void separate() {  // "3, 5, and 7" has one separator before the 7
    if (tokens.empty() || !tokens.back().is(",")) push(Token::mark, ",");
  }

  void token() {
    const char c = peek();
    if (is_digit(c) || (c == '.' && is_digit(peek(1)))) return number();
    if (is_letter(c)) return word();
    if (c == '\\') {
      ++at_;
      return named(is_letter(peek()) ? letters() : text_.substr(at_++, 1));
    }
    if (static_cast<unsigned char>(c) >= 0x80) {
      for (size_t size = 2; size <= 3; ++size) {
        if (names().contains(text_.substr(at_, size))) return at_ += size, named(text_.substr(at_ - size, size));
      }
      failed_ = true;
    } else if (std::string_view("+-*/^_=<>()[]{}|!:,;'&").find(c) != std::string_view::npos && c != '\0') {
      mark(c);
    } else {
      failed_ = !is_space(c) && std::string_view("$%~.?").find(c) == std::string_view::npos;
      if (c == '?' || c == '.') push(Token::mark, std::string(1, c));  // no answer has one inside
      ++at_;
    }
  }

  void mark(char c) {
    ++at_;
    depth_ += (c == '(' || c == '[') - (c == ')' || c == ']');
    if (c == ',' || c == ';') return separate();
    if (c == '*' && take("*")) return push(Token::mark, "^");
    if ((c == '<' || c == '>' || c == '!') && take("="))
      c = c == '<' ? 'l' : c == '>' ? 'g' : '!';
    else if (c == '!')
      return push(Token::mark, "factorial");
    push(Token::mark, std::string(1, c));
  }

  std::string_view letters() {
    const size_t start = at_;
    while (is_letter(peek())) ++at_;
    return text_.substr(start, at_ - start);
  }

  /// Digits, thousands separators, a decimal part, a part that repeats, an exponent such as e-5.
  void number() {
    const bool in_list = at_ > 0 && text_[at_ - 1] == ',';
    Token token{Token::number, std::string(digits())};
    const bool bare_comma = depth_ == 0 && !in_list && token.text[0] != '0';
    if (token.text.size() <= 3) {
      while (thousands(bare_comma)) token.text += digits();
    }
    if (peek() == '.' && (is_digit(peek(1)) || repeats(1))) {
      ++at_;
      const std::string_view decimals = digits();
      token.text += decimals;
      token.scale = -static_cast<int64_t>(decimals.size());
      if (repeats(0)) {
        at_ = text_.find('{', at_) + 1;
        token.repeat = digits();
        if (!take("}") || token.repeat.empty()) failed_ = true;
      }
    }
    const size_t sign = peek(1) == '-' || peek(1) == '+';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
      const bool negative = peek(1) == '-';
      at_ += 1 + sign;
      const std::string_view exponent = digits();
      if (exponent.size() > 6 || is_letter(peek()))
        failed_ = true;
      else
        token.scale += (negative ? -1 : 1) * std::stol(std::string(exponent));
    }
    tokens.push_back(std::move(token));
  }
  bool repeats(size_t ahead) const {
    const std::string_view rest = text_.substr(std::min(at_ + ahead, text_.size()));
    return rest.starts_with("\\overline{") || rest.starts_with("\\bar{") || rest.starts_with("\\dot{");
  }
  /// Moves past a separator if three digits, and not four, follow it. A bare comma separates thousands only outside of
  /// brackets, in "1,234,567" but not in "1,2,100" or "0,100".
  bool thousands(bool bare_comma) {
    const size_t start = at_;
    for (const std::string_view separator : {"{,}", ",\\!", "\\,", "\\ ", "\\;", ","}) {
      if (!take(separator)) continue;
      if (separator != ",") skip_spaces();
      const size_t group = at_;
      const bool fits = digits().size() == 3 && (separator != "," || bare_comma);
      at_ = fits ? group : start;
      return fits;
    }
    return false;
  }

  void word() {
    const std::string_view run = letters();
    if (run == "and" || run == "or") return separate();
    const auto found = names().find(run);
    const bool named = run.size() > 1 && found != names().end() &&
                       (found->second.type == Token::function || found->second.type == Token::letter || run == "sqrt");
    if (named) return tokens.push_back(found->second);
    push(run.size() == 1 ? Token::letter : Token::word, std::string(run));
  }

  void named(std::string_view name) {
    const auto found = names().find(name);
    if (found == names().end()) {
      failed_ = true;
      return;
    }
    const Token& token = found->second;
    if (token.type == Token::command && token.text == "text") return text(name);
    if (token.text == "phantom") {  // an invisible sign
      skip_spaces();
      at_ = peek() == '{' ? std::min(text_.find('}', at_), text_.size() - 1) + 1 : at_ + 1;
    } else if (token.text == "begin" || token.text == "end") {
      environment(token.text == "begin");
    } else if (token.text == "2" || token.text == "3") {
      push(Token::mark, "^");
      push(Token::number, token.text);
    } else if (!token.text.empty()) {
      if (token.text == "\\{" || token.text == "\\}") depth_ += token.text == "\\{" ? 1 : -1;
      tokens.push_back(token);
    } else if (name == "left" || name == "right") {
      skip_spaces();
      if (peek() == '.') ++at_;
    }
  }

  void environment(bool begins) {
    const size_t close = text_.find('}', at_);
    constexpr std::string_view kMatrices = "{matrix}{pmatrix}{bmatrix}{Bmatrix}{smallmatrix}{array}";
    if (peek() != '{' || close == std::string_view::npos ||
        kMatrices.find(text_.substr(at_, close + 1 - at_)) == std::string_view::npos) {
      failed_ = true;
      return;
    }
    const bool columns =
        begins && text_.substr(at_, close - at_) == "{array" && close + 1 < text_.size() && text_[close + 1] == '{';
    at_ = (columns ? std::min(text_.find('}', close + 1), text_.size() - 1) : close) + 1;
    depth_ += begins ? 1 : -1;
    push(Token::mark, begins ? "matrix" : "end matrix");
  }

  /// The words of \text{...}; a command or a number in it is read as if it stood outside.
  void text(std::string_view command) {
    skip_spaces();
    if (peek() != '{') return;
    const size_t close = text_.find('}', at_);
    if (close == std::string_view::npos) {
      failed_ = true;
      return;
    }
    const std::string_view content = text_.substr(at_ + 1, close - at_ - 1);
    const bool constant = command == "mathrm" && (content == "i" || content == "e");
    const bool value = std::none_of(content.begin(), content.end(), is_letter) &&
                       std::any_of(content.begin(), content.end(), is_digit);
    if (constant || value || content.find_first_of("\\{$") != std::string_view::npos) return;
    at_ = close + 1;
    std::string piece, last;
    const auto flush = [&] {
      if (all_digits(piece))
        push(Token::number, piece);
      else if (!piece.empty())
        push(Token::quoted, piece);
      piece.clear();
    };
    for (size_t i = 0; i <= content.size(); ++i) {
      const char c = i < content.size() ? content[i] : ' ';
      if (is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80 || c == ':' || c == '/' || c == '\'' ||
          c == '-') {
        last += is_letter(c) ? static_cast<char>(c | 0x20) : c;
        continue;
      }
      if (c == '.' && i + 1 < content.size() && is_digit(content[i + 1])) {
        last += c;
        continue;
      }
      if (c == '.' && !(i + 1 == content.size() || is_space(content[i + 1]))) continue;  // p.m.
      const bool conjunction = last == "and" || last == "or";
      if (!conjunction) piece += last;
      last.clear();
      if (conjunction || c == ',' || c == ';') flush(), separate();
    }
    flush();
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  bool failed_ = false;
};

/// Drops units: text or known words behind a value, with their power and "/" or "per" before the next.
void drop_units(std::vector<Token>& tokens) {
  std::vector<Token> kept;
  bool after_value = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    Token& token = tokens[i];
    const auto is_one = [&](const Token& t) {
      return (t.type == Token::quoted && !changes_value(t.text)) || (t.type == Token::word && is_unit(t.text));
    };
    if (after_value && is_one(token)) {
      if (!kept.empty() && i > 0 && tokens[i - 1].is("/") && kept.back().is("/")) kept.pop_back();
      if (i + 2 < tokens.size() && tokens[i + 1].is("^")) i += tokens[i + 2].is("{") ? 4 : 2;
      continue;
    }
    const bool slash_of_unit = after_value && token.is("/") && i + 1 < tokens.size() && is_one(tokens[i + 1]);
    after_value = slash_of_unit || token.type == Token::number || (token.type == Token::letter && !kept.empty()) ||
                  token.is(")") || token.is("]") || token.is("}") || token.is("|") || token.is("deg");
    kept.push_back(std::move(token));
  }
  tokens = std::move(kept);
}

}  // namespace

std::optional<std::vector<Token>> tokenize(std::string_view text) {
  Lexer lexer(text);
  if (!lexer.run()) return std::nullopt;
  auto& tokens = lexer.tokens;
  const auto idle = [](const Token& t) { return t.is(".") || t.is(",") || t.is("newline"); };
  while (!tokens.empty() && idle(tokens.back())) tokens.pop_back();
  drop_units(tokens);
  while (!tokens.empty() && idle(tokens.back())) tokens.pop_back();
  tokens.push_back({});
  return std::move(tokens);
}

}  // namespace tiny_zero::math
