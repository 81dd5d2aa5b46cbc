#include "core/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "base/fd.h"
#include "base/file.h"

namespace isopod::core {
namespace {

using Clock = std::chrono::steady_clock;

int left_ms(Clock::time_point deadline) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return left > 0 ? static_cast<int>(left) : 0;
}

Result<UniqueFd> open_directory(int dir, const std::string& path) {
  UniqueFd fd(openat(dir, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return failure(errno, "open cgroup", path);
  return fd;
}

// Waits until `key value` stands in cgroup.events; the kernel signals changes by POLLPRI.
Status await_event(int cgroup, const std::string& path, const std::string& line, int timeout_ms) {
  auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  UniqueFd events(openat(cgroup, "cgroup.events", O_RDONLY | O_CLOEXEC));
  if (!events) return failure(errno, "open cgroup.events", path);
  for (;;) {
    char text[256];
    ssize_t n = pread(events.get(), text, sizeof(text), 0);
    if (n < 0) return failure(errno, "read cgroup.events", path);
    if (std::string(text, static_cast<size_t>(n)).find(line + "\n") != std::string::npos) return Done{};
    int left = left_ms(deadline);
    if (left == 0) return Error{ETIMEDOUT, "wait for cgroup", path, {}, "not \"" + line + "\" in time"};
    pollfd waiting{events.get(), POLLPRI, 0};
    // Bounded naps: a notification can be lost when the cgroup dies under us.
    poll(&waiting, 1, left < 100 ? left : 100);
  }
}

// Names of the cgroups right below.
std::string next_child(int cgroup, std::unique_ptr<DIR, int (*)(DIR*)>& stream) {
  if (!stream) {
    stream.reset(fdopendir(fcntl(cgroup, F_DUPFD_CLOEXEC, 0)));
    if (!stream) return {};
    rewinddir(stream.get());
  }
  while (dirent* entry = readdir(stream.get())) {
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.') return entry->d_name;
  }
  return {};
}

// Before 5.14: SIGKILL to each, again and again until nothing is left to fork.
void kill_each(int cgroup) {
  Result<std::string> procs = read_file(cgroup, "cgroup.procs");
  if (!procs) return;
  const char* at = procs->c_str();
  while (*at != '\0') {
    char* end;
    long pid = strtol(at, &end, 10);
    if (end == at) break;
    // 0: a process outside our pid namespace; kill(0) would be us.
    if (pid > 0) kill(static_cast<pid_t>(pid), SIGKILL);
    at = *end == '\n' ? end + 1 : end;
  }
}

void kill_all(int cgroup) {
  if (write_file(cgroup, "cgroup.kill", "1")) return;
  kill_each(cgroup);
  std::unique_ptr<DIR, int (*)(DIR*)> stream(nullptr, closedir);
  for (std::string name = next_child(cgroup, stream); !name.empty(); name = next_child(cgroup, stream)) {
    if (Result<UniqueFd> child = open_directory(cgroup, name)) kill_all(child->get());
  }
}

Status remove_below(int parent, const std::string& name, Clock::time_point deadline) {
  for (;;) {
    if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return Done{};
    if (errno != EBUSY) return failure(errno, "remove cgroup", name);
    // Busy: child cgroups, or an exiting process that the kernel has not let go of yet.
    Result<UniqueFd> cgroup = open_directory(parent, name);
    if (cgroup) {
      std::unique_ptr<DIR, int (*)(DIR*)> stream(nullptr, closedir);
      for (std::string child = next_child(cgroup->get(), stream); !child.empty();
           child = next_child(cgroup->get(), stream)) {
        if (Status removed = remove_below(cgroup->get(), child, deadline); !removed) return removed;
      }
    }
    if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return Done{};
    if (left_ms(deadline) == 0) return failure(EBUSY, "remove cgroup", name);
    poll(nullptr, 0, 1);
  }
}

}  // namespace

Status cgroup_destroy(const std::string& path, int timeout_ms) {
  auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  if (rmdir(path.c_str()) == 0 || errno == ENOENT) return Done{};
  Result<UniqueFd> cgroup = open_directory(AT_FDCWD, path);
  if (!cgroup) return cgroup.error().err == ENOENT ? Status(Done{}) : Status(cgroup.error());
  for (;;) {
    kill_all(cgroup->get());
    int left = left_ms(deadline);
    Status empty = await_event(cgroup->get(), path, "populated 0", left < 200 ? left : 200);
    if (empty) break;
    if (empty.error().err == ENODEV) return Done{};  // removed by somebody else meanwhile
    if (empty.error().err != ETIMEDOUT || left == 0) return empty;
  }
  return remove_below(AT_FDCWD, path, deadline);
}

Status cgroup_freeze(const std::string& path, bool frozen, int timeout_ms) {
  Result<UniqueFd> cgroup = open_directory(AT_FDCWD, path);
  if (!cgroup) return cgroup.error();
  if (Status wrote = write_file(cgroup->get(), "cgroup.freeze", frozen ? "1" : "0"); !wrote) {
    return failure(wrote.error().err, "freeze cgroup", path);
  }
  Status done = await_event(cgroup->get(), path, frozen ? "frozen 1" : "frozen 0", timeout_ms);
  // A half-frozen container would hang for ever without anybody knowing.
  if (!done && frozen) (void)write_file(cgroup->get(), "cgroup.freeze", "0").ok();
  return done;
}

}  // namespace isopod::core
