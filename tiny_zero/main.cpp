// tiny_zero VERB [--setting value ...]: reads the settings and calls the verb.

#include <ATen/Parallel.h>
#include <malloc.h>
#include <torch/version.h>

#include <cstdio>
#include <iostream>

#include "tiny_zero/files/json.h"
#include "tiny_zero/kernels/compute_type.h"
#include "tiny_zero/settings/config.h"
#include "tiny_zero/settings/progress.h"
#include "tiny_zero/verbs/command_line.h"
#include "tiny_zero/verbs/resume.h"

namespace {

using namespace tiny_zero;

int run(int argc, char** argv) {
  // Large tensors come and go at every step: keep their pages instead of returning them to the
  // system each time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  const auto verbs = make_verbs();
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    std::cout << "tiny_zero VERB [--setting value ...]\n\n";
    for (const auto& verb : verbs)
      std::cout << "  " << verb.name << std::string(15 - verb.name.size(), ' ') << verb.help
                << '\n';
    std::cout << "\ntiny_zero VERB --help lists a verb's settings, VERB --help SECTION a part of "
                 "them.\ntiny_zero --version tells what was built.\n";
    return 0;
  }
  if (name == "--version") {
    std::cout << "tiny_zero " TINY_ZERO_VERSION ", LibTorch " TORCH_VERSION
                 "\nCUDA kernels: " TINY_ZERO_CUDA_KERNELS "\n";
    return 0;
  }
  const auto verb = std::ranges::find(verbs, name, &Verb::name);
  if (verb == verbs.end())
    throw std::invalid_argument("there is no verb \"" + name + "\"; tiny_zero --help lists them");
  if (verb->pipe) {  // reads and writes in blocks
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);
  }

  Config config;
  Settings settings = config.settings();
  // All of them, since a recipe may hold any task's settings.
  std::map<std::string, std::unique_ptr<Task>> tasks;
  for (const auto& task_name : task_names()) {
    tasks[task_name] = make_task(task_name);
    settings.append(tasks[task_name]->settings().needs("task = " + task_name));
  }
  if (!read_command_line(verbs, *verb, argc - 1, argv + 1, config, settings)) return 0;
  config.validate();
  if (settings.find("device").in(verb->reads)) check_device(*verb, config);
  if (settings.find("compute-type").in(verb->reads))
    config.compute_type = settle_compute_type(config.compute_type, config.device, verb->pipe);
  if (!tasks.contains(config.task)) make_task(config.task);  // throws with the known names
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  if (settings.find("task").in(verb->reads)) tasks[config.task]->prepare(config.seed);
  if (verb->writes_run && !config.resume) lock_run(run_path(config));
  if (verb->writes_run) catch_signals();
  verb->run(config, settings, *tasks[config.task]);
  return exit_code();
}

}  // namespace

int main(int argc, char** argv) try {
  const int code = run(argc, argv);
  if (!std::cout.flush() || std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw std::runtime_error("standard output cannot be written: is the disk full?");
  return code;
} catch (const c10::Error& error) {
  std::cerr << "tiny_zero: " << visible(error.what_without_backtrace()) << '\n';
  return 1;
} catch (const std::exception& error) {
  std::cerr << "tiny_zero: " << visible(error.what()) << '\n';
  return 1;
}
