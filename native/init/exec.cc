// The end: finding the program and becoming it.
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr uint32_t kType = 0170000, kRegular = 0100000;
constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// 0 if `path` is a regular file that this process may execute.
long executable(const char* path) {
  const long fd = sys::openat(AT_FDCWD, path, sys::kPath | sys::kCloexec);
  if (fd < 0) return fd;
  struct statx stat {};
  long error = stat_fd(static_cast<int>(fd), stat);
  if (error >= 0 && (stat.stx_mode & kType) != kRegular) error = -kEacces;
  sys::close(static_cast<int>(fd));
  if (error < 0) return error;
  constexpr long kExecute = 1, kEffective = 0x200;
  return sys::raw(SYS_faccessat2, AT_FDCWD, sys::word(path), kExecute, kEffective);
}

bool has_slash(const char* text) {
  for (; *text != 0; text++)
    if (*text == '/') return true;
  return false;
}

const char* path_variable(uint32_t environment) {
  for (uint32_t i = 0; i < stub.plan.list_size(environment); i++) {
    const char* entry = stub.plan.list_item(environment, i);
    if (entry[0] == 'P' && entry[1] == 'A' && entry[2] == 'T' && entry[3] == 'H' && entry[4] == '=')
      return entry + 5;
  }
  return kDefaultPath;
}

// As execvp: the first that can be executed; a file that is there but may not be is remembered.
long search(const char* name, const char* path) {
  long outcome = -kEnoent;
  while (*path != 0) {
    char candidate[kPathMax] = "";
    size_t n = 0;
    while (*path != 0 && *path != ':') {
      if (n + 1 < sizeof(candidate)) candidate[n++] = *path;
      path++;
    }
    if (*path == ':') path++;
    candidate[n] = 0;
    if (n == 0) append(candidate, sizeof(candidate), ".");
    if (!append(candidate, sizeof(candidate), "/") || !append(candidate, sizeof(candidate), name))
      continue;
    const long found = executable(candidate);
    if (found >= 0) {
      stub.executable[0] = 0;
      append(stub.executable, sizeof(stub.executable), candidate);
      return 0;
    }
    if (found == -kEacces) outcome = found;
  }
  return outcome;
}

// char*[] for execve from a list of the plan.
const char** vector_of(uint32_t list) {
  const uint32_t count = stub.plan.list_size(list);
  auto** vector = static_cast<const char**>(pages((size_t{count} + 1) * sizeof(char*)));
  for (uint32_t i = 0; vector != nullptr && i < count; i++)
    vector[i] = stub.plan.list_item(list, i);
  return vector;
}

// A filter that is older than close_range(2) refuses it; our soft limit is at most 1024 then.
void close_between(unsigned first, unsigned last) {
  constexpr unsigned kSoftLimit = 1024;
  if (first > last || sys::close_range(first, last, 0) >= 0) return;
  for (unsigned fd = first; fd <= last && fd < kSoftLimit; fd++) sys::close(static_cast<int>(fd));
}

}  // namespace

long op_lookup(const Op& op) {
  const char* name = stub.plan.list_item(op.a, 0);
  if (has_slash(name)) {
    stub.executable[0] = 0;
    if (!append(stub.executable, sizeof(stub.executable), name)) return -kEnametoolong;
    return executable(name);
  }
  const long outcome = *name == 0 ? -kEnoent : search(name, path_variable(op.b));
  if (outcome == -kEnoent) stub.why = "executable file not found in $PATH";
  return outcome;
}

// CVE-2024-21626, CVE-2016-9962: everything is closed, not only marked close-on-exec, but the
// socket that tells how the exec ended; that one is close-on-exec and leads to nothing.
long prepare_exec(const Op& op) {
  if (stub.arguments != nullptr) return 0;
  if (stub.executable[0] == 0) {
    if (const long error = op_lookup(op); error < 0) return error;
  }
  constexpr unsigned kDefaultUmask = 0022;
  if (!stub.umask_set) sys::raw(SYS_umask, kDefaultUmask);
  const char** arguments = vector_of(op.a);
  stub.environment = vector_of(op.b);
  if (arguments == nullptr || stub.environment == nullptr) return -kEnomem;
  close_between(3, static_cast<unsigned>(stub.sync) - 1);
  close_between(static_cast<unsigned>(stub.sync) + 1, ~0u);
  stub.arguments = arguments;
  return sync_point(plan::kExecuting);
}

long op_exec(const Op& op) {
  const long error = prepare_exec(op);
  // A launcher that is gone (EPIPE) does not keep a container that it released from starting.
  if (error < 0 && stub.arguments == nullptr) return error;
  return sys::raw(SYS_execve, sys::word(stub.executable), sys::word(stub.arguments),
                  sys::word(stub.environment));
}

}  // namespace isopod::init
