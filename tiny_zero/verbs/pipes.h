#pragma once
// Verbs that compose: JSON Lines from standard input to standard output. A line that is no such
// object ends the program with its number; what was written before it stays.

#include "tiny_zero/rollout.h"

namespace tiny_zero {

/// {"text"} -> {"ids"}, or back with config.decode.
void tokenize(const Config& config);

/// {"prompt", "response"} or {"prompt_ids", "response_ids"} -> {"ids", "log_probs"} of the
/// response's tokens at config.temperature, in nats. Texts are encoded apart and joined.
void score(const Config& config);

/// {"prompt"} -> {"prompt", "response", "ids", "log_probs"}, config.samples lines each, the end
/// token in ids. With config.prompt its response is printed instead as it is written; with
/// config.problem the task's problem and grades.
void generate(const Config& config, const Task& task);

/// {"gold", "candidate"}, a bare answer, or {"gold", "response"} -> {"correct", "extracted",
/// "reason"}, by the task's rule. "finished": false tells that the response was cut at the length
/// limit.
void grade_lines(const Task& task);

/// Every ten words in a row of a text, lower case, without punctuation; of a shorter text all its
/// words together.
std::vector<std::string> ten_grams(const std::string& text);

/// Training problems in; out those that share no ten words in a row with a problem of
/// config.against [DeepSeekMath, data hygiene]. A line's text is its "problem" or "question". What
/// is dropped is told on standard error.
void decontaminate(const Config& config);

/// Writes config.model to config.output in the layout that it came in, weights in
/// config.export_type.
void export_model(const Config& config);

}  // namespace tiny_zero
