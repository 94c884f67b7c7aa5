#pragma once
// The end of the demo: accuracy before and after, transcripts, the learning curve, and whether the
// run went as expected.

#include "tiny_zero/files/run_directory.h"
#include "tiny_zero/task.h"

namespace tiny_zero {

/// Reads RUNS-DIR/NAME: metrics.jsonl of `train`, {before,after}.json and
/// {before,middle,after}.jsonl of `eval`. Prints a table and three transcripts of one problem;
/// writes summary.json (one line) and curve.tsv. With `expected`, a file of the summaries of
/// earlier seeds, says whether the figures lie in their range.
void report(const Config& config);

}  // namespace tiny_zero
