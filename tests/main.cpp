// Runs every TEST_CASE that is linked in. `build/tests --help` lists doctest's options, such as
// -tc='policy_loss*'.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <iostream>

namespace {

/// Counts test cases for the closing line, which CI reads.
struct ClosingLine : doctest::IReporter {
  explicit ClosingLine(const doctest::ContextOptions& /*options*/) {}

  void report_query(const doctest::QueryData& /*query*/) override { is_query = true; }
  void test_run_end(const doctest::TestRunStats& stats) override {
    passed = stats.numTestCasesPassingFilters - stats.numTestCasesFailed;
    failed = stats.numTestCasesFailed;
  }
  void test_run_start() override {}
  void test_case_start(const doctest::TestCaseData& /*test*/) override {}
  void test_case_reenter(const doctest::TestCaseData& /*test*/) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& /*stats*/) override {}
  void test_case_exception(const doctest::TestCaseException& /*error*/) override {}
  void subcase_start(const doctest::SubcaseSignature& /*subcase*/) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData& /*assertion*/) override {}
  void log_message(const doctest::MessageData& /*message*/) override {}
  void test_case_skipped(const doctest::TestCaseData& /*test*/) override {}

  static inline bool is_query = false;
  static inline unsigned passed = 0;
  static inline unsigned failed = 0;
};
REGISTER_LISTENER("closing_line", /*priority=*/1, ClosingLine);

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int exit_code = context.run();
  if (!ClosingLine::is_query && (ClosingLine::passed + ClosingLine::failed > 0)) {
    std::cout << ClosingLine::passed << " passed, " << ClosingLine::failed << " failed\n";
  }
  return exit_code;
}
