// The table of tasks/math/README.md, row by row, and what the grader owes to any input.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tasks/math/grader.h"

using namespace tiny_zero::math;

namespace {

/// Every answer equals every other one of its row, in both directions.
void check_equal(const std::vector<std::string>& answers) {
  for (const auto& a : answers) {
    for (const auto& b : answers) {
      CAPTURE(a);
      CAPTURE(b);
      CHECK(compare(a, b).reason == "equal");
    }
  }
}

/// No answer equals the gold answer, which itself can be read.
void check_different(const std::string& gold, const std::vector<std::string>& answers) {
  CAPTURE(gold);
  CHECK(readable(gold));
  for (const auto& answer : answers) {
    CAPTURE(answer);
    CHECK_FALSE(equivalent(gold, answer));
  }
}

std::string repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

}  // namespace

TEST_CASE("math grader: numbers are exact") {
  check_equal({"42", "042", "42.0", "+42", "84/2", "6 \\cdot 7", "42.", "{42.}", "$42$", "\\(42\\)",
               "{42}", "\\boxed{42}"});
  check_equal({"-8", "- 8", "−8", "(-8)", "-8.00"});
  check_equal({"0.375", ".375", "\\frac{3}{8}", "\\frac38", "\\dfrac{3}{8}", "\\tfrac 38", "3/8",
               "\\frac{-3}{-8}"});
  check_equal({"0.\\overline{27}", "0.2\\overline{72}", "\\frac{3}{11}", "0.\\bar{27}"});
  check_equal({"0.\\dot{6}", "⅔", "2/3"});
  check_equal({"7", "seven", "\\text{seven}", "\\text{seven apples}"});
  check_equal(
      {"3000000", "3\\text{ million}", "3 million", "3\\times 10^6", "\\text{three million}"});
  check_equal({"2.5\\times 10^{-3}", "2.5e-3", "0.0025", "\\frac{1}{400}"});
  check_different("2^{90}+1", {"2^{90}", "2^{90}-1", "1.2379400392853803e27"});
  check_different("\\frac{2}{3}", {"0.67", "0.6666666667", "\\frac{3}{2}", "23", "2", ""});
  check_different("7", {"-7", "\\pm 7", "77", "0.7", "700", "7 8", "7x", "\\frac{7}{0}"});
}

TEST_CASE("math grader: mixed numbers") {
  check_equal({"2\\frac{3}{5}", "2 \\frac35", "2 3/5", "2⅗", "\\frac{13}{5}", "2.6"});
  check_equal({"-2\\frac{3}{5}", "-2.6"});
  check_equal({"2\\frac{7}{5}", "\\frac{14}{5}"});  // not a mixed number: a product
  check_different("2\\frac{3}{5}", {"\\frac{6}{5}", "3\\frac{2}{5}", "2\\frac{5}{3}", "2.35"});
}

TEST_CASE("math grader: percent, currency, degrees and units leave no trace") {
  check_equal({"35\\%", "35", "35%", "35\\text{ percent}", "35 percent"});
  check_equal({"\\$4.50", "4.5", "4.50\\text{ dollars}", "4.50 dollars", "€4.50"});
  check_equal({"70^\\circ", "70^{\\circ}", "70°", "70", "70\\text{ degrees}"});
  check_equal({"12\\text{ cm}^2", "12", "12 \\mathrm{cm}^{2}", "12 square inches",
               "12\\text{ m}/\\text{s}", "12 ft", "12 km/h", "12 ft/sec^2", "12 miles per hour"});
  check_different("35\\%", {"0.35\\%", "3500", "36"});
  check_different("12", {"12\\text{ million}", "12x", "12m+1", "13\\text{ cm}"});
  check_different("9\\text{ a.m.}", {"9\\text{ p.m.}", "9"});
}

TEST_CASE("math grader: thousands separators") {
  check_equal({"1234567", "1,234,567", "1{,}234{,}567", "1 {,} 234{,}567", "1,\\!234,\\!567",
               "1\\!,234\\!,567", "1\\,234\\,567", "1,\\! 234,\\! 567", "1, \\! 234, \\! 567"});
  check_different("1,234,567", {"234,567", "1", "1,234,568", "(1,234,567)"});
  check_different("(12,345)", {"12345", "12,345"});
  check_equal({"2,5,100", "100, 5, 2"});  // a list, as 5,100 has a list before it
}

TEST_CASE("math grader: radicals, powers, constants, logarithms, trigonometry") {
  check_equal({"\\sqrt{18}", "3\\sqrt2", "3√2", "18^{1/2}", "3*sqrt(2)", "\\frac{6}{\\sqrt{2}}"});
  check_equal({"\\sqrt[3]{-27}", "-3"});
  check_equal({"5^{300}", "5 \\cdot 5^{299}", "25^{150}", "5^300"});
  check_equal({"\\frac{2\\pi}{3}", "\\frac23\\pi", "2pi/3", "2π/3"});
  check_equal({"4-3i", "-3i+4", "\\frac{25}{4+3i}", "4-\\sqrt{-9}"});
  check_equal({"\\log_2 32", "5", "\\frac{\\ln 32}{\\ln 2}", "\\log 10^5"});
  check_equal({"\\cos 30^\\circ", "\\frac{\\sqrt3}{2}", "\\sin\\frac{\\pi}{3}", "\\cos(\\pi/6)"});
  check_equal({"\\sin^{-1} 1", "\\frac{\\pi}{2}", "\\arcsin(1)"});
  check_equal({"\\exp(3)", "e^3", "e \\cdot e^2"});
  check_equal({"7!", "5040", "\\binom{7}{3} \\cdot 144", "{7 \\choose 3}\\cdot 144"});
  check_equal({"|3-4i|", "5", "\\lfloor 5.9 \\rfloor", "\\lceil 4.1 \\rceil"});
  check_different("\\sqrt{18}",
                  {"\\sqrt{8}", "18", "\\pm\\sqrt{18}", "4.242640687119285", "\\sqrt[3]{18}"});
  check_different("5^{300}", {"5^{300}+1", "300^5", "-5^{300}"});
  check_different("\\pi", {"3.14159265358979", "\\frac{22}{7}", "180"});
  check_different("1/(1000!)", {"1/(1001!)"});
  check_different("\\ln 2", {"\\log 2", "0.693", "\\ln(-2)"});
}

TEST_CASE("math grader: polynomials and other expressions with variables") {
  check_equal({"x^2-5x+6", "6 - 5x + x^2", "(x-2)(x-3)", "x(x-5)+6", "x^2-5*x+6", "x²-5x+6"});
  check_equal({"\\frac{1}{x-1}-\\frac{1}{x+1}", "\\frac{2}{x^2-1}"});
  check_equal({"\\sqrt{4x^2y}", "2x\\sqrt{y}"});  // variables are positive below a root
  check_equal({"\\sin 3x \\cos x", "\\frac{\\sin 4x+\\sin 2x}{2}"});
  check_equal({"2^{n+3}", "8 \\cdot 2^n"});
  check_equal({"f(3-t)", "f(-t+3)"});
  check_equal({"\\binom{n}{2}", "\\frac{n(n-1)}{2}"});
  check_different("x^2-5x+6",
                  {"y^2-5y+6", "x^2+5x+6", "x^2-5x", "x^{2-5x+6}", "(x-2)(x-3)=0", "0"});
  check_different("|x|", {"x", "-x", "|x|+1"});
  check_different("f(3-t)", {"g(3-t)", "f(t-3)", "3-t"});
  check_different("x_1", {"x_2", "x", "x1"});
}

TEST_CASE("math grader: lists and sets have no order, \\pm is two values") {
  check_equal({"2, 3, 7", "\\{7, 2, 3\\}", "3, 7, \\text{ and } 2", "7, 2 or 3", "x = 2, 3, 7",
               "x \\in \\{2,3,7\\}"});
  check_equal(
      {"1 \\pm \\sqrt{5}", "1-\\sqrt5, 1+\\sqrt5", "\\{1+\\sqrt5,1-\\sqrt5\\}", "x=1\\pm\\sqrt5"});
  check_equal({"\\emptyset", "\\{\\}", "\\varnothing", "∅"});
  check_equal({"\\{4\\}", "4"});
  check_equal({"2\\pi k", "2k\\pi, k \\in \\mathbb{Z}", "x = 2\\pi k, k \\in \\mathbb{Z}"});
  check_different("2, 3, 7", {"2, 3", "2, 3, 7, 8", "2, 3, 3", "(2,3,7)", "237", "7"});
  check_different("1, 1, 2", {"1, 2, 2", "1, 2"});
  check_different("4", {"4 \\text{ or } 5", "4, 5", "4; 5", "4 4"});
  check_different("\\emptyset", {"0", "\\{0\\}", "\\{\\emptyset\\}", "\\text{none}"});
  check_different("1 \\pm \\sqrt{5}", {"1+\\sqrt5", "5\\pm\\sqrt{1}", "1"});
}

TEST_CASE("math grader: points, intervals, unions, ratios and matrices have an order") {
  check_equal({"(3, -\\frac12)", "\\left(3,-0.5\\right)", "(x,y) = (3,-1/2)",
               "\\langle 3, -.5 \\rangle", "x = 3, y = -\\frac12", "x=3 \\text{ and } y=-0.5"});
  check_equal({"[-1,\\infty)", "x \\in [-1,\\infty)", "x \\ge -1", "-1 \\leq x", "[-1,+∞)",
               "\\{x \\mid x \\ge -1\\}", "\\{x : x \\ge -1\\}", "\\{x | x \\ge -1\\}"});
  check_equal({"(0,2] \\cup (5,6)", "(5,6)\\cup(0,2]", "x \\in (0,2]\\cup(5,6)"});
  check_equal({"(-\\infty,0)\\cup[1,\\infty)", "x < 0 \\text{ or } x \\ge 1", "x \\ge 1, x < 0"});
  check_equal({"1 \\le t < 4", "[1,4)", "4 > t \\ge 1"});
  check_equal({"\\mathbb{R}", "(-\\infty,\\infty)", "\\text{all real numbers}"});
  check_equal({"2:3", "a:b = 2:3", "2 : 3"});
  check_equal({"\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}",
               "\\begin{bmatrix}1\\\\-2\\\\\\end{bmatrix}",
               "-\\begin{pmatrix}-1\\\\2\\end{pmatrix}",
               "\\left(\\begin{array}{c}1\\\\-2\\end{array}\\right)"});
  check_different("(3, 4)", {"(4,3)", "[3,4]", "(3,4]", "3, 4", "\\{3,4\\}", "(3,4,5)", "3", "(3,4",
                             "y=3, x=4", "x=3, x=4", "x=3", "x=3, y=4, z=5"});
  check_different("(0,2]\\cup(5,6)", {"(0,2]", "(0,2]\\cap(5,6)", "(0,2)\\cup(5,6)", "(0,6)"});
  check_different("2:3", {"3:2", "2:3:1", "\\frac23"});
  check_different(
      "\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}",
      {"\\begin{pmatrix} 1 & -2 \\end{pmatrix}", "\\begin{pmatrix} -2 \\\\ 1 \\end{pmatrix}",
       "(1,-2)", "\\begin{pmatrix} 1 \\end{pmatrix}", "\\begin{vmatrix} 1 \\\\ -2 \\end{vmatrix}",
       "\\begin{pmatrix}1"});
}

TEST_CASE("math grader: equations and inequalities") {
  check_equal({"x = 9", "9", "9 = x", "x=9.0"});
  check_equal({"AB = 9", "9"});
  check_equal({"f(2) = 9", "9"});
  check_equal({"x = 3^2 = 9", "9"});
  check_equal({"y = 3x - 1", "3x - 1 = y", "3x - y = 1", "2y = 6x - 2"});
  check_equal({"y = 3x - 1", "3x - 1"});
  check_equal({"2x + 5y < 7", "7 > 5y + 2x", "4x + 10y < 14", "-2x - 5y > -7"});
  check_equal(
      {"x \\neq 2", "2 \\ne x", "(-\\infty,2)\\cup(2,\\infty)", "\\mathbb{R} \\setminus \\{2\\}"});
  check_different("x \\neq 2",
                  {"x \\ne 3", "y \\ne 2", "2", "x = 2", "x < 2", "x \\ne 2, x \\ne 3"});
  CHECK(equivalent("9", "a + b = 9"));
  CHECK_FALSE(
      equivalent("a + b = 9", "9"));  // a gold answer is an equation unless its left side is a name
  check_different("x = 9", {"x = -9", "x = 9, 10", "x > 9", "y = 9", "9 = x + 1", "x \\ne 9"});
  check_different("9", {"9 = x + 1", "x^2 = 9", "2x = 9", "x > 9", "8 + 1 = 10"});
  check_different("y = 3x - 1", {"y = 3x + 1", "x = 3y - 1", "-1", "y < 3x - 1"});
  check_different("2x + 5y < 7", {"2x + 5y \\le 7", "2x + 5y > 7", "2x + 5y = 7", "-2x - 5y < -7"});
}

TEST_CASE("math grader: text, choices, number bases") {
  check_equal({"\\text{(B)}", "B", "(B)", "\\textbf{B}", "\\text{b}", "B."});
  check_equal({"\\text{Tuesday}", "tuesday", "\\mathrm{TUESDAY}", "\\text{ Tuesday. }"});
  check_equal({"\\text{A, C}", "C, A", "A \\text{ and } C"});
  check_equal({"\\text{6:15 p.m.}", "6:15 \\text{ p.m.}", "6:15\\text{ PM}", "6:15 PM"});
  check_equal({"314_5", "314_{5}"});
  check_different("\\text{(B)}", {"A", "AB", "\\text{B or C}", "A B C D E"});
  check_different("\\text{even}", {"\\text{not even}", "\\text{odd}", "\\text{eve}", "2"});
  check_different("314_5", {"314", "314_6", "3145", "84", "5_314", "314^5"});
}

TEST_CASE("math grader: what cannot be read equals nothing, not even itself") {
  for (const std::string junk : {"",
                                 " ",
                                 "$$",
                                 "{}",
                                 "()",
                                 "[]",
                                 "\\text{}",
                                 "?",
                                 "...",
                                 "\\frac{}{}",
                                 "\\frac{1}",
                                 "1/0",
                                 "0/0",
                                 "((3)",
                                 "3)",
                                 "\\sqrt{}",
                                 "x^",
                                 "^2",
                                 "5 6",
                                 "\\undefined{3}",
                                 "\\int_0^1 x dx",
                                 "<answer>3</answer>",
                                 "\\end{pmatrix}3\\begin{pmatrix}",
                                 "3 \\text{",
                                 "\xff\xfe",
                                 "3\xc3",
                                 "[0,1"}) {
    CAPTURE(junk);
    CHECK_FALSE(readable(junk));
    CHECK_FALSE(equivalent("3", junk));
    CHECK_FALSE(equivalent(junk, "3"));
  }
  CHECK_FALSE(readable(std::string("3\0", 2)));
  CHECK(compare("", "3").reason == "the right answer cannot be read");
  CHECK(compare("3", "(").reason == "the answer cannot be read");
  CHECK(compare("3", "4").reason == "different");
}

TEST_CASE("math grader: any input takes bounded time") {
  const std::vector<std::string> hostile = {repeat("x", 1000000),
                                            repeat("{", 1000000),
                                            repeat("\\frac{7", 300),
                                            repeat("(", 1000),
                                            repeat("-", 1000) + "x",
                                            "9^9^9^9",
                                            repeat("2^", 300) + "2",
                                            "(a+b+c+d)^{999999999}",
                                            "1000000000!",
                                            repeat("\\binom{x}{3000}", 60),
                                            repeat("3000!", 200),
                                            "1e999999",
                                            "\\sqrt[1000000000]{2}",
                                            repeat("x,", 500) + "1",
                                            repeat("\\pm x,", 150) + "1",
                                            repeat("\\text{", 100),
                                            repeat("x<", 300) + "1",
                                            repeat("\\sin ", 200) + "x",
                                            repeat("'", 1000),
                                            repeat("1,", 500)};
  const auto start = std::chrono::steady_clock::now();
  for (const auto& a : hostile) {
    for (const auto& b : {hostile[9], hostile[13], a}) compare(a, b);
    compare("5", a);
    extract_answer("\\boxed{" + a);
    extract_last_number(a);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  CHECK(seconds.count() < 10);  // 80 pairs; loose, for sanitizers and busy machines
}

TEST_CASE("math extraction: the last box, the last answer tag, the last number") {
  CHECK(extract_boxed("so \\boxed{\\frac{1}{\\sqrt{2}}}.") == "\\frac{1}{\\sqrt{2}}");
  CHECK(extract_boxed("\\boxed{1} no, \\fbox{ 2 }") == "2");
  CHECK(extract_boxed("\\boxed{\\boxed{3}}") == "3");
  CHECK(extract_boxed("\\boxed{\\{1,2\\}}") == "\\{1,2\\}");
  CHECK(extract_boxed("$\\boxed 5$ apples") == "5");
  for (const std::string none : {"", "5", "\\boxed", "\\boxed{}", "\\boxed{ }", "\\boxed{5",
                                 "\\boxed{1} \\boxed{2", "\\boxed{\\}"}) {
    CAPTURE(none);
    CHECK_FALSE(extract_boxed(none));
  }
  CHECK(extract_tagged("<answer>1</answer> <answer> 2 </answer><answer>3") == "2");
  CHECK(extract_tagged("<answer><answer>4</answer>") == "4");
  CHECK_FALSE(extract_tagged("<answer>5"));
  CHECK_FALSE(extract_tagged("6</answer>"));
  CHECK_FALSE(extract_tagged("<answer> </answer>"));

  CHECK(extract_answer("<think>\\boxed{1}</think><answer>it is \\boxed{2}</answer>\\boxed{3}") ==
        "2");
  CHECK(extract_answer("<answer>7</answer>") == "7");
  CHECK(extract_answer("\\boxed{8}<|im_end|>") == "8");
  CHECK_FALSE(extract_answer(
      "\\boxed{1} <answer>\\boxed{2</answer>"));  // cut off: no answer, not an earlier one
  CHECK_FALSE(extract_answer("the answer is 9"));

  CHECK(extract_last_number("it is $1,234.50.") == "1,234.50");
  CHECK(extract_last_number("3 - 5 = -2!") == "-2");
  CHECK(extract_last_number("#### 42") == "42");
  CHECK(extract_last_number("a, .5, b") == ".5");
  CHECK_FALSE(extract_last_number("none."));
}

// MATH_CASES=FILE build/tests -tc='*labelled*' measures a file of {"gold", "candidate", "kind",
// "expected"} lines.
TEST_CASE("math grader: labelled pairs of the file MATH_CASES" *
          doctest::skip(std::getenv("MATH_CASES") == nullptr)) {
  std::ifstream file(std::getenv("MATH_CASES"));
  REQUIRE(file.good());
  int64_t pairs = 0, right = 0, false_accepts = 0;
  double seconds = 0;
  for (std::string line; std::getline(file, line);) {
    const auto record = nlohmann::json::parse(line);
    if (!record.contains("candidate")) continue;  // bytes that are not UTF-8
    const std::string gold = record["gold"], candidate = record["candidate"];
    const auto start = std::chrono::steady_clock::now();
    const auto answer = record["kind"] == "response" ? extract_answer(candidate)
                                                     : std::optional<std::string_view>(candidate);
    const bool equal = answer && equivalent(gold, *answer);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const bool expected = record["expected"];
    ++pairs;
    right += equal == expected;
    false_accepts += equal && !expected;
    if (equal != expected)
      std::cout << (equal ? "accepted: " : "rejected: ") << gold << "   "
                << candidate.substr(0, 200) << '\n';
  }
  const auto count = static_cast<double>(pairs);
  std::cout << right << " of " << pairs << " right, " << false_accepts << " false accepts, "
            << count / seconds << " pairs/s\n";
  CHECK(static_cast<double>(right) >= 0.99 * count);
  CHECK(false_accepts < 5);
}
