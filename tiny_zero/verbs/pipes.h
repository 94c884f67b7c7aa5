#pragma once
// Verbs that compose: JSON Lines from standard input to standard output. A line that is not the
// object described here ends the program with an error that names it or, with on-error = null, has
// {"error"} written in its place; blank lines are skipped.

#include "tiny_zero/rollout.h"

namespace tiny_zero {

/// {"text"} -> {"ids"}, or {"ids"} -> {"text"} with config.decode.
void tokenize(const Config& config);

/// {"prompt", "response"} or {"prompt_ids", "response_ids"} -> {"ids", "log_probs"} of the
/// response's tokens at config.temperature, in nats. Prompt and response are encoded separately.
void score(const Config& config);

/// {"prompt"} -> {"prompt", "response", "ids", "log_probs"}, config.samples lines each; ids include
/// the end token. With config.prompt it prints that prompt's response as it is sampled, with
/// config.problem the responses to a problem of the task and their rewards. With config.problems it
/// answers so many training problems -> {"problem", "prompt", "response", "reward", "correct",
/// "finished", "pass_rate"}, the lines that sft learns from. pass_rate is the problem's share of
/// right responses; its limits and config.only_right say which lines are written.
void generate(const Config& config, const Task& task);

/// {"gold", "response"}, or {"gold", "candidate"} for a bare answer -> {"correct", "extracted",
/// "reason"}, by the task's rule. "finished": false says that the response was truncated at the
/// length limit.
void grade_lines(const Config& config, const Task& task);

/// All sequences of ten words of a text, in lower case and without punctuation. A shorter text
/// gives one sequence.
std::vector<std::string> ten_grams(const std::string& text);

/// Drops the problems that share ten consecutive words with a problem of config.against
/// [DeepSeekMath, data hygiene] and names them on standard error. A line's text is its "problem" or
/// "question".
void decontaminate(const Config& config);

/// Writes config.model to config.output in Hugging Face layout, weights in config.export_type.
void export_model(const Config& config);

}  // namespace tiny_zero
