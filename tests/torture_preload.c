// Preloaded by torture.py: disturbs the program at its k-th system call of one kind below the run's
// directory. Settings come from the environment:
//   TORTURE_BELOW   only calls on paths that contain this text count, so never those on stdout
//   TORTURE_KIND    open (for writing), write, fsync, mkdir, rename, unlink, truncate, or any
//   TORTURE_AT      k, from 1; without it calls are only counted
//   TORTURE_ACTION  before: kill -9 instead of the call, a write half done; after: kill -9 after
//                   it; full: the k-th and all later ones fail with ENOSPC, the first write half
//                   done
//   TORTURE_LOG     file for one line at the disturbance, KIND PATH, or at the end one with counts
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum Kind { OPEN, WRITE, FSYNC, MKDIR, RENAME, UNLINK, TRUNCATE, KINDS };
static const char* const kNames[] = {"open",   "write",  "fsync",   "mkdir",
                                     "rename", "unlink", "truncate"};
static long counts[KINDS], matching;

// The next definition of the function: the C library's.
#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

static const char* setting(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

static bool action_is(const char* name) { return strcmp(setting("TORTURE_ACTION"), name) == 0; }

static void note(const char* format, ...) {
  const int file = NEXT(open)(setting("TORTURE_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
  va_list arguments;
  va_start(arguments, format);
  vdprintf(file, format, arguments);  // the C library's own write: not counted
  va_end(arguments);
  close(file);
}

static const char* path_of(int file) {
  static char path[4096];
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  path[length < 0 ? 0 : length] = '\0';
  return path;
}

enum Outcome { PASS, DIE_BEFORE, DIE_AFTER, FIRST_FAILURE, FAILURE };

static enum Outcome count(enum Kind kind, const char* path) {
  const char *wanted = setting("TORTURE_KIND"), *below = setting("TORTURE_BELOW");
  if (!*below || !strstr(path, below)) return PASS;
  ++counts[kind];
  const long at = atol(setting("TORTURE_AT"));
  if (strcmp(wanted, "any") != 0 && strcmp(wanted, kNames[kind]) != 0) return PASS;
  ++matching;
  if (at == 0 || matching < at) return PASS;
  if (matching == at) note("%s %s\n", kNames[kind], path);
  if (action_is("full")) return matching == at ? FIRST_FAILURE : FAILURE;
  return matching > at ? PASS : action_is("after") ? DIE_AFTER : DIE_BEFORE;
}

__attribute__((destructor)) static void note_counts(void) {
  if (*setting("TORTURE_AT")) return;
  for (int kind = 0; kind < KINDS; ++kind) note("%s %ld\n", kNames[kind], counts[kind]);
}

// Calls that happen or do not.
#define DISTURBED(type, failure, kind, path, call)    \
  const enum Outcome outcome = count(kind, path);     \
  if (outcome == DIE_BEFORE) kill(getpid(), SIGKILL); \
  if (outcome >= FIRST_FAILURE) {                     \
    errno = ENOSPC;                                   \
    return failure;                                   \
  }                                                   \
  type result = call;                                 \
  if (outcome == DIE_AFTER) kill(getpid(), SIGKILL);  \
  return result

int mkdir(const char* path, mode_t mode) {
  DISTURBED(int, -1, MKDIR, path, NEXT(mkdir)(path, mode));
}
int rename(const char* from, const char* to) {
  DISTURBED(int, -1, RENAME, to, NEXT(rename)(from, to));
}
int unlink(const char* path) { DISTURBED(int, -1, UNLINK, path, NEXT(unlink)(path)); }
int remove(const char* path) { DISTURBED(int, -1, UNLINK, path, NEXT(remove)(path)); }
int unlinkat(int directory, const char* path, int flags) {
  DISTURBED(int, -1, UNLINK, directory == AT_FDCWD ? path : path_of(directory),
            NEXT(unlinkat)(directory, path, flags));
}
int truncate(const char* path, off_t size) {
  DISTURBED(int, -1, TRUNCATE, path, NEXT(truncate)(path, size));
}
int ftruncate(int file, off_t size) {
  DISTURBED(int, -1, TRUNCATE, path_of(file), NEXT(ftruncate)(file, size));
}
int fsync(int file) { DISTURBED(int, -1, FSYNC, path_of(file), NEXT(fsync)(file)); }
FILE* fopen64(const char* path, const char* mode) {
  const bool writes = mode[0] != 'r' || strchr(mode, '+');
  if (!writes) return NEXT(fopen64)(path, mode);
  DISTURBED(FILE*, NULL, OPEN, path, NEXT(fopen64)(path, mode));
}

#define OPENS(function, path, ...)                                                  \
  va_list arguments;                                                                \
  va_start(arguments, flags);                                                       \
  const mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;              \
  va_end(arguments);                                                                \
  if (!(flags & (O_WRONLY | O_RDWR | O_CREAT))) return NEXT(function)(__VA_ARGS__); \
  DISTURBED(int, -1, OPEN, path, NEXT(function)(__VA_ARGS__))
int open(const char* path, int flags, ...) { OPENS(open, path, path, flags, mode); }
int open64(const char* path, int flags, ...) { OPENS(open64, path, path, flags, mode); }
int openat(int at, const char* path, int flags, ...) { OPENS(openat, path, at, path, flags, mode); }

// Writes, which may be half done.
static ssize_t half_write(int file, const struct iovec* parts, int n, size_t total) {
  ssize_t done = 0;
  for (size_t left = total / 2; n > 0 && left > 0; ++parts, --n) {
    const size_t bytes = parts->iov_len < left ? parts->iov_len : left;
    done += NEXT(write)(file, parts->iov_base, bytes);
    left -= bytes;
  }
  return done;
}
ssize_t writev(int file, const struct iovec* parts, int n) {
  const enum Outcome outcome = count(WRITE, path_of(file));
  size_t total = 0;
  for (int i = 0; i < n; ++i) total += parts[i].iov_len;
  if (outcome == PASS) return NEXT(writev)(file, parts, n);
  if (outcome == DIE_AFTER) NEXT(writev)(file, parts, n);
  const ssize_t done =
      outcome == DIE_BEFORE || outcome == FIRST_FAILURE ? half_write(file, parts, n, total) : 0;
  if (outcome < FIRST_FAILURE) kill(getpid(), SIGKILL);
  if (done > 0) return done;
  errno = ENOSPC;
  return -1;
}
ssize_t write(int file, const void* bytes, size_t size) {
  const struct iovec part = {(void*)bytes, size};
  return writev(file, &part, 1);
}
