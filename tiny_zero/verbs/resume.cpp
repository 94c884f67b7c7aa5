#include "tiny_zero/verbs/resume.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace tiny_zero {

namespace fs = std::filesystem;

void lock_run(const fs::path& run) {
  fs::create_directories(run);
  const std::string path = run / "lock";
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) throw std::system_error(errno, std::generic_category(), path);
  // A file system without locks says something else (ENOSYS): there, only start() is exclusive.
  if (flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(file);
    std::string holder;
    std::getline(std::ifstream(path), holder);
    if (holder.empty()) holder = "another process";  // which has not come to that yet
    throw std::runtime_error(run.string() + " is in use by " + holder +
                             "; wait for it, stop it, or take another --name");
  }
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  if (ftruncate(file, 0) == 0) dprintf(file, "process %d on %s\n", getpid(), host);
}

}  // namespace tiny_zero
