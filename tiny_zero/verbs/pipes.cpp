#include "tiny_zero/verbs/pipes.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <functional>
#include <iostream>
#include <limits>
#include <set>
#include <unordered_map>

#include "tiny_zero/files/json.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/verbs/evaluate.h"

namespace tiny_zero {
namespace {

using Ids = std::vector<int64_t>;

/// A response may end within a character, and bytes that are not UTF-8 become U+FFFD. Flushed when
/// no further line waits, for a program that reads each answer before it writes the next line.
void print(const Json& line) {
  std::cout << line.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) << '\n';
  if (std::cin.rdbuf()->in_avail() <= 0) std::cout.flush();
}

/// Calls `act` with each row and its line number, until Ctrl-C. What it throws gets the line in
/// front and, by on-error, ends the program or is printed in the line's place; a c10::Error is a
/// bug of this program and passes as it is.
/// @return the lines that could not be used
int64_t for_each_line(OnError on_error, const std::function<void(const Json&, int64_t)>& act,
                      std::istream& in = std::cin, const std::string& name = "standard input") {
  std::string line;
  int64_t failed = 0;
  for (int64_t number = 0; std::cout;) {  // main() reports a failed output
    try {
      if (!next_row(in, line, number)) break;
      act(parse_json<Json>(line, ""), number);
    } catch (const c10::Error&) {
      throw;
    } catch (const std::exception& error) {
      const std::string problem = name + ", line " + std::to_string(number) + ": " + error.what();
      if (on_error == OnError::stop || in.bad()) throw std::invalid_argument(problem);
      print({{"error", problem}});
      ++failed;
    }
  }
  if (failed > 0)
    std::cerr << failed << (failed == 1 ? " line" : " lines")
              << " could not be used: see \"error\"\n";
  return failed;
}

/// The text under this key of a line.
std::string text_of(const Json& line, const char* key) {
  const nlohmann::json value = line.is_object() ? line.value(key, Json()) : line;
  return Field{value, line.is_object() ? key : "the line"}.text();
}

/// The ids under this key of a line.
Ids read_ids(const Json& line, const char* key) {
  const nlohmann::json array = line.is_object() ? line.value(key, Json()) : line;
  Ids ids;
  for (const Field& id : Field{array, key}.elements())
    ids.push_back(id.integer(0, std::numeric_limits<int32_t>::max()));
  return ids;
}

/// Whether JSON can hold the text as it is: bytes that are not UTF-8 would come back as U+FFFD.
bool is_utf8(const std::string& text) {
  const Json value = text;
  return Json::parse(value.dump(-1, ' ', false, Json::error_handler_t::replace)) == value;
}

/// How much of a text to show while it grows: all but a UTF-8 character that has only begun.
size_t whole_characters(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<uint8_t>(text[text.size() - back]);
    if (byte < 0x80) break;
    const size_t bytes = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
    if (byte >= 0xC0) return text.size() - (bytes > back ? back : 0);
  }
  return text.size();
}

std::vector<float> row_of(const torch::Tensor& table, int64_t row, int64_t length) {
  const float* from = table[row].data_ptr<float>();
  return {from, from + length};
}

/// The prompt as the user's message in the model's chat form, after its default system message.
std::string chat_prompt(ChatTemplate chat, const std::string& prompt) {
  if (chat == ChatTemplate::plain) return prompt;
  return std::string("<|im_start|>system\n") +
         (chat == ChatTemplate::qwen
              ? "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
              : "You are a helpful AI assistant named SmolLM, trained by Hugging Face") +
         "<|im_end|>\n<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n";
}

}  // namespace

void tokenize(const Config& config) {
  const Tokenizer tokenizer = Tokenizer::from_file(model_directory(config) / "tokenizer.json");
  for_each_line(config.on_error, [&](const Json& line, int64_t) {
    if (config.decode)
      print({{"text", tokenizer.decode(read_ids(line, "ids"))}});
    else
      print({{"ids", tokenizer.encode(text_of(line, "text"))}});
  });
}

void score(const Config& config) {
  const auto [tokenizer, model] = load_model(config);
  for_each_line(config.on_error, [&](const Json& line, int64_t) {
    const bool has_ids = line.contains("prompt_ids");
    const Ids prompt =
        has_ids ? read_ids(line, "prompt_ids")
                : tokenizer.encode_prompt(chat_prompt(config.chat, text_of(line, "prompt")));
    const Ids ids =
        has_ids ? read_ids(line, "response_ids") : tokenizer.encode(text_of(line, "response"));
    const int64_t length = std::ssize(ids), all = length + std::ssize(prompt);
    if (prompt.empty() || ids.empty() || all > model.config().max_positions)
      throw std::invalid_argument(c10::str("prompt and response have ", all,
                                           " tokens, want at least one each and at most ",
                                           model.config().max_positions));
    for (const Ids& part : {prompt, ids}) tokenizer.decode(part);  // throws for what is no token
    Rollout rollout;
    rollout.prompts = {prompt};
    rollout.lengths = {length};
    rollout.response_ids = torch::tensor(ids).unsqueeze(0);
    rollout.log_probs = torch::zeros({1, length});
    const auto log_probs = score_log_probs(model, rollout, config.temperature, all);
    print({{"ids", ids}, {"log_probs", row_of(log_probs, 0, length)}});
  });
}

namespace {

/// Answers the task's training problems and prints the responses that the filters keep: rejection
/// sampling [RFT], distillation [Open R1].
void answer_problems(const Config& config, const Task& task, const LoadedModel& loaded,
                     const SamplingOptions& options) {
  constexpr int64_t kAtOnce = 1024;  // responses; a fixed number, as the call decides what is drawn
  const int64_t step = std::max<int64_t>(1, kAtOnce / config.samples);
  std::vector<int64_t> numbers;
  const auto problems = distinct_problems(task, Split::train, config.problems, numbers);
  int64_t written = 0;
  for (int64_t first = 0; first < std::ssize(problems) && std::cout; first += step) {
    const auto begin = problems.begin() + first;
    const auto end = begin + std::min<int64_t>(step, problems.end() - begin);
    Rollout rollout = Sampler(loaded.model, options)
                          .sample(loaded.tokenizer, {begin, end}, config.samples, /*call=*/first);
    grade(task, rollout);
    for (int64_t p = 0; p < end - begin; ++p) {
      const auto grades = std::span(rollout.grades).subspan(p * config.samples, config.samples);
      const auto right = std::count_if(grades.begin(), grades.end(), std::mem_fn(&Grade::correct));
      const double rate = 1.0 * right / config.samples;
      if (rate < config.min_pass_rate || rate > config.max_pass_rate) continue;
      std::set<std::string> seen;
      for (int64_t i = p * config.samples; i < (p + 1) * config.samples; ++i) {
        const auto& [grade, text] = std::tie(rollout.grades[i], rollout.texts[i]);
        if (config.only_right &&
            !(grade.correct && rollout.finished[i] && is_utf8(text) && seen.insert(text).second))
          continue;
        print({{"problem", numbers[first + p]},
               {"prompt", rollout.problem_of(i).prompt},
               {"response", text},
               {"reward", grade.reward},
               {"correct", grade.correct},
               {"finished", static_cast<bool>(rollout.finished[i])},
               {"pass_rate", rate}});
        ++written;
      }
    }
  }
  std::cerr << "kept " << written << " of " << std::ssize(problems) * config.samples
            << " responses\n";
}

}  // namespace

void generate(const Config& config, const Task& task) {
  const LoadedModel loaded = load_model(config);
  auto options = sampling_options(config, config.temperature, Stream::generation);
  if (config.problems > 0) return answer_problems(config, task, loaded, options);
  const auto sample = [&](const Problem& problem, int64_t samples, int64_t call) {
    return Sampler(loaded.model, options).sample(loaded.tokenizer, {problem}, samples, call);
  };
  const auto as_problem = [&](const std::string& prompt) {
    return Problem{chat_prompt(config.chat, prompt), ""};
  };
  if (!config.prompt.empty()) {
    std::string waiting;  // a character that has only begun
    options.on_token = [&](int64_t, int64_t id) {
      if (std::ranges::count(loaded.model.config().end_ids, id) > 0) return;
      waiting += loaded.tokenizer.decode({&id, 1});
      const size_t whole = whole_characters(waiting);
      std::cout << visible(waiting.substr(0, whole)) << std::flush;
      waiting.erase(0, whole);
    };
    for (int64_t i = 0; i < config.samples && std::cout; ++i) {
      std::cout << config.prompt << std::flush;
      sample(as_problem(config.prompt), 1, /*call=*/i);
      std::cout << visible(std::exchange(waiting, "")) << std::endl;
    }
  } else if (config.problem >= 0) {
    Rollout rollout = sample(task.problem(Split::test, config.problem), config.samples, /*call=*/0);
    grade(task, rollout);
    for (int64_t i = 0; i < rollout.size(); ++i)
      std::cout << visible(rollout.problem_of(i).prompt + rollout.texts[i]) << "\nreward "
                << rollout.grades[i].reward << '\n';
  } else {
    for_each_line(config.on_error, [&](const Json& line, int64_t) {
      const auto prompt = text_of(line, "prompt");
      const Rollout rollout = sample(as_problem(prompt), config.samples, /*call=*/0);
      for (int64_t i = 0; i < rollout.size(); ++i) {
        const int64_t *ids = rollout.response_ids[i].data_ptr<int64_t>(),
                      length = rollout.lengths[i];
        print({{"prompt", prompt},
               {"response", rollout.texts[i]},
               {"ids", Ids(ids, ids + length)},
               {"log_probs", row_of(rollout.log_probs, i, length)}});
      }
    });
  }
}

void grade_lines(const Config& config, const Task& task) {
  for_each_line(config.on_error, [&](const Json& line, int64_t) {
    const bool whole = line.contains("response");
    const Problem problem{"", text_of(line, "gold")};
    const auto text = text_of(line, whole ? "response" : "candidate");
    const Grade grade = whole ? task.grade(problem, text, line.value("finished", true))
                              : task.grade_answer(problem, text);
    const std::string extracted = whole ? task.answer(problem, text) : text;
    const auto reason = grade.correct ? "right" : grade.answered ? "wrong" : "no answer";
    print({{"correct", grade.correct},
           {"extracted", extracted.empty() ? Json() : Json(extracted)},
           {"reason", grade.reason.empty() ? reason : grade.reason}});
  });
}

std::vector<std::string> ten_grams(const std::string& text) {
  std::vector<std::string> words(1), grams;
  for (const unsigned char c : text) {
    if (!std::isspace(c) && !std::ispunct(c)) words.back() += static_cast<char>(std::tolower(c));
    if (std::isspace(c) && !words.back().empty()) words.emplace_back();
  }
  if (words.back().empty()) words.pop_back();
  const size_t size = std::min<size_t>(words.size(), 10);
  for (size_t first = 0; size > 0 && first + size <= words.size(); ++first) {
    grams.push_back(words[first]);
    for (size_t i = first + 1; i < first + size; ++i) grams.back() += ' ' + words[i];
  }
  return grams;
}

void decontaminate(const Config& config) {
  const auto text = [](const Json& line) {
    return text_of(line, line.contains("problem") ? "problem" : "question");
  };
  std::ifstream file = open_text(config.against, "against wants the test problems as JSON Lines");
  std::unordered_map<std::string, int64_t> tested;  // ten words -> a line that holds them
  int64_t read = 0, dropped = 0;
  const auto remember = [&](const Json& line, int64_t number) {
    for (auto& words : ten_grams(text(line))) tested.emplace(std::move(words), number);
  };
  // Whatever on-error says: a test problem left out would let its copies through.
  for_each_line(OnError::stop, remember, file, config.against);
  const int64_t failed = for_each_line(config.on_error, [&](const Json& line, int64_t number) {
    const auto grams = ten_grams(text(line));
    ++read;
    for (const auto& words : grams) {
      const auto found = tested.find(words);
      if (found == tested.end()) continue;
      std::cerr << "line " << number << " shares \"" << visible(words) << "\" with "
                << config.against << ":" << found->second << '\n';
      ++dropped;
      return;
    }
    print(line);
  });
  std::cerr << "dropped " << dropped << " of " << read + failed << " problems\n";
}

void export_model(const Config& config) {
  const std::filesystem::path from = model_directory(config), to = config.output;
  if (to.empty() || std::filesystem::exists(to / "config.json"))
    throw std::invalid_argument("output is \"" + config.output +
                                "\", want a directory that holds no model yet");
  std::filesystem::create_directories(to);  // throws before the weights are read
  const SideFiles side_files = read_side_files(from);
  const Model model = Model::load(from, Head::language_model, torch::kCPU).merged();
  model.save(to, to_dtype(config.export_type));
  write_side_files(to, side_files);
  std::cout << "model in " << to.string() << std::endl;
  if (!model.config().known_elsewhere())
    std::cout << "note: its model_type " << model.config().family
              << " is this program's own; transformers and vLLM will refuse it" << std::endl;
}

}  // namespace tiny_zero
