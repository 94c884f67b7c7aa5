#pragma once
// What the demo shows at the end: before and after, transcripts, the curve, and whether the run
// went as expected.

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// Reads RUNS-DIR/NAME: metrics.jsonl, and before, middle and after (.json and .jsonl as `eval`
/// writes them). Prints a table and three transcripts of one problem, and writes summary.json (one
/// line) and curve.tsv. With `expected`, a file of such lines of earlier seeds, says whether the
/// figures lie in their band.
void report(const Config& config);

}  // namespace tiny_zero
