#include "tiny_zero/verbs/pipes.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <unordered_map>

#include "tiny_zero/files/json.h"
#include "tiny_zero/scoring.h"
#include "tiny_zero/settings/progress.h"

namespace tiny_zero {
namespace {

using Ids = std::vector<int64_t>;

/// Calls `act` with each row and its line number, until Ctrl-C. What it throws gets the line in
/// front; a c10::Error is a bug of this program and passes as it is.
void for_each_line(const std::function<void(const Json& line, int64_t number)>& act,
                   std::istream& in = std::cin, const std::string& name = "standard input") {
  std::string line;
  for (int64_t number = 0; !interrupted() && next_row(in, line, number);) {
    try {
      act(Json::parse(line), number);
    } catch (const c10::Error&) {
      throw;
    } catch (const std::exception& error) {
      throw std::invalid_argument(name + ", line " + std::to_string(number) + ": " + error.what());
    }
  }
}

/// A response may end within a character, and bytes that are not UTF-8 become U+FFFD. Flushed when
/// no further line waits, for a program that reads each answer before it writes the next line.
void print(const Json& line) {
  std::cout << line.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) << '\n';
  if (std::cin.rdbuf()->in_avail() <= 0) std::cout.flush();
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
  for_each_line([&](const Json& line, int64_t) {
    if (config.decode) {
      print({{"text", tokenizer.decode(line.at("ids").get<Ids>())}});
    } else {
      print({{"ids", tokenizer.encode(line.at("text").get<std::string>())}});
    }
  });
}

void score(const Config& config) {
  const auto [tokenizer, model] = load_model(config);
  for_each_line([&, &tokenizer = tokenizer, &model = model](const Json& line, int64_t) {
    const bool has_ids = line.contains("prompt_ids");
    const Ids prompt = has_ids ? line.at("prompt_ids").get<Ids>()
                               : tokenizer.encode_prompt(chat_prompt(
                                     config.chat, line.at("prompt").get<std::string>()));
    const Ids ids = has_ids ? line.at("response_ids").get<Ids>()
                            : tokenizer.encode(line.at("response").get<std::string>());
    const auto length = static_cast<int64_t>(ids.size()),
               all = length + static_cast<int64_t>(prompt.size());
    if (prompt.empty() || ids.empty() || all > model.config().max_positions) {
      throw std::invalid_argument("prompt and response have " + std::to_string(all) +
                                  " tokens, want at least one each and at most " +
                                  std::to_string(model.config().max_positions));
    }
    for (const Ids& part : {prompt, ids})
      tokenizer.decode(part);  // throws for an id that is no token
    Rollout rollout;
    rollout.prompts = {prompt};
    rollout.lengths = {length};
    rollout.response_ids = torch::tensor(ids).unsqueeze(0);
    rollout.log_probs = torch::zeros({1, length});
    const auto log_probs = score_log_probs(model, rollout, config.temperature, all);
    print({{"ids", ids}, {"log_probs", row_of(log_probs, 0, length)}});
  });
}

void generate(const Config& config, const Task& task) {
  const auto [tokenizer, model] = load_model(config);
  auto options = sampling_options(config, config.temperature, Stream::generation);
  const auto sample = [&, &tokenizer = tokenizer, &model = model](const Problem& problem,
                                                                  int64_t samples, int64_t call) {
    return Sampler(model, options).sample(tokenizer, {problem}, samples, call);
  };
  const auto as_problem = [&](const std::string& prompt) {
    return Problem{chat_prompt(config.chat, prompt), ""};
  };
  if (!config.prompt.empty()) {
    options.on_token = [&, &tokenizer = tokenizer, &ends = model.config().end_ids](int64_t,
                                                                                   int64_t id) {
      if (std::find(ends.begin(), ends.end(), id) == ends.end())
        std::cout << tokenizer.decode({&id, 1}) << std::flush;
    };
    for (int64_t i = 0; i < config.samples; ++i) {
      std::cout << config.prompt << std::flush;
      sample(as_problem(config.prompt), 1, /*call=*/i);
      std::cout << std::endl;
    }
  } else if (config.problem >= 0) {
    Rollout rollout = sample(task.problem(Split::test, config.problem), config.samples, /*call=*/0);
    grade(task, rollout);
    for (int64_t i = 0; i < rollout.size(); ++i) {
      std::cout << rollout.problem_of(i).prompt << rollout.texts[i] << "\nreward "
                << rollout.grades[i].reward << '\n';
    }
  } else {
    for_each_line([&](const Json& line, int64_t) {
      const auto prompt = line.at("prompt").get<std::string>();
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

void grade_lines(const Task& task) {
  for_each_line([&](const Json& line, int64_t) {
    const bool whole = line.contains("response");
    const Problem problem{"", line.at("gold").get<std::string>()};
    const auto text = line.at(whole ? "response" : "candidate").get<std::string>();
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
    return line.at(line.contains("problem") ? "problem" : "question");
  };
  std::ifstream file(config.against);
  if (!file)
    throw std::invalid_argument("against is \"" + config.against +
                                "\", want a JSON Lines file of test problems");
  std::unordered_map<std::string, int64_t> tested;  // ten words -> a line that holds them
  int64_t read = 0, dropped = 0;
  for_each_line(
      [&](const Json& line, int64_t number) {
        for (auto& words : ten_grams(text(line))) tested.emplace(std::move(words), number);
      },
      file, config.against);
  for_each_line([&](const Json& line, int64_t number) {
    ++read;
    for (const auto& words : ten_grams(text(line))) {
      const auto found = tested.find(words);
      if (found == tested.end()) continue;
      std::cerr << "line " << number << " shares \"" << words << "\" with " << config.against << ":"
                << found->second << '\n';
      ++dropped;
      return;
    }
    print(line);
  });
  std::cerr << "dropped " << dropped << " of " << read << " problems\n";
}

void export_model(const Config& config) {
  const std::filesystem::path from = model_directory(config), to = config.output;
  if (to.empty() || std::filesystem::exists(to / "config.json"))
    throw std::invalid_argument("output is \"" + config.output +
                                "\", want a directory that holds no model yet");
  const SideFiles side_files = read_side_files(from);
  Model::load(from, Head::language_model, torch::kCPU).save(to, to_dtype(config.export_type));
  write_side_files(to, side_files);
  std::cout << "model in " << to.string() << std::endl;
}

}  // namespace tiny_zero
