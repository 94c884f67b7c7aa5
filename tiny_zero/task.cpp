#include "tiny_zero/task.h"

#include <map>
#include <ranges>

namespace tiny_zero {
namespace {

using Registry = std::map<std::string, std::function<std::unique_ptr<Task>()>>;

/// Inside a function, so that it exists whichever file's static objects are made first.
Registry& registry() {
  static Registry tasks;
  return tasks;
}

}  // namespace

bool register_task(const std::string& name, std::function<std::unique_ptr<Task>()> factory) {
  return registry().emplace(name, std::move(factory)).second;
}

std::vector<std::string> task_names() {
  const auto names = std::views::keys(registry());
  return {names.begin(), names.end()};
}

std::unique_ptr<Task> make_task(const std::string& name) {
  const auto found = registry().find(name);
  if (found != registry().end()) return found->second();
  std::string known;
  for (const auto& known_name : task_names()) known += (known.empty() ? "" : ", ") + known_name;
  throw std::invalid_argument("task is \"" + name + "\", want one of " + known);
}

}  // namespace tiny_zero
