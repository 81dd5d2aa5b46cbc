#include "agent/cgroups.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <sstream>

#include "base/fd.h"
#include "base/file.h"
#include "core/host.h"
#include "core/process.h"

namespace isopod::agent {

namespace {

constexpr size_t kMaxFiles = 64;
constexpr size_t kMaxFile = 64 * 1024;

Error refuse(const char* step, const std::string& subject, const char* why) {
  return Error{0, step, subject, {}, why, "INVALID_ARGUMENT"};
}

// Best effort: what cannot be handed down is missed by the write that needs it, and named there.
void hand_down(const std::string& path) {
  Result<std::string> controllers = read_file(AT_FDCWD, path + "/cgroup.controllers");
  if (!controllers) return;
  std::istringstream words(*controllers);
  for (std::string word; words >> word;)
    static_cast<void>(write_file(AT_FDCWD, path + "/cgroup.subtree_control", "+" + word).ok());
}

void pids_below(const std::string& path, std::vector<int>& pids) {
  if (Result<std::string> procs = read_file(AT_FDCWD, path + "/cgroup.procs")) {
    std::istringstream lines(*procs);
    for (int pid = 0; lines >> pid;) pids.push_back(pid);
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(path.c_str()), ::closedir);
  if (!stream) return;
  while (const dirent* entry = ::readdir(stream.get()))
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
      pids_below(path + "/" + entry->d_name, pids);
}

}  // namespace

Result<std::string> cgroup_of(const std::string& path) {
  const std::string& root = core::features().cgroup_root;
  if (root.empty()) return Error{0, "cgroup", path, {}, "no cgroup2 mount", "FAILED_PRECONDITION"};
  if (path.size() < 2 || path[0] != '/')
    return refuse("cgroup", path, "must name one below the root");
  std::istringstream parts(path.substr(1));
  for (std::string part; std::getline(parts, part, '/');)
    if (part.empty() || part == "." || part == "..")
      return refuse("cgroup", path, "must name one below the root");
  return root + path;
}

Status cgroup_make_parents(const std::string& path, std::vector<std::string>& made) {
  const std::string& root = core::features().cgroup_root;
  for (size_t at = path.find('/', root.size() + 1); at != std::string::npos;
       at = path.find('/', at + 1)) {
    const std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0755) == 0) {
      made.insert(made.begin(), part);
    } else if (errno != EEXIST) {
      const Error error = failure(errno, "cgroup", part);
      cgroup_unmake(made);
      made.clear();
      return error;
    }
    hand_down(part);
  }
  return Done{};
}

void cgroup_unmake(const std::vector<std::string>& made) {
  for (const std::string& path : made)
    if (::rmdir(path.c_str()) < 0) return;
}

Result<std::vector<File>> cgroup_read(const std::string& path,
                                      const std::vector<std::string>& names) {
  if (names.size() > kMaxFiles) return refuse("read", path, "too many files");
  const UniqueFd cgroup(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup) return failure(errno, "open cgroup", path);
  std::vector<File> files;
  for (const std::string& name : names) {
    Result<std::string> content = read_file(cgroup.get(), name);
    if (!content) continue;
    if (content->size() > kMaxFile) content->resize(kMaxFile);
    files.push_back(File{name, std::move(*content)});
  }
  return files;
}

std::vector<int> cgroup_pids(const std::string& path) {
  std::vector<int> pids;
  pids_below(path, pids);
  return pids;
}

Status cgroup_signal(const std::string& path, int signal) {
  if (signal == SIGKILL && core::features().flags.at("cgroupKill")) {
    Status killed = write_file(AT_FDCWD, path + "/cgroup.kill", "1");
    return killed || killed.error().err == ENOENT ? Status(Done{}) : killed;
  }
  // A process that forks meanwhile may have a child that does not get it.
  for (const int pid : cgroup_pids(path)) {
    const UniqueFd pidfd(core::pidfd_open(pid));
    if (pidfd) core::send_signal(pidfd.get(), signal);
  }
  return Done{};
}

uint64_t cgroup_oom_kills(const std::string& path) {
  Result<std::string> events = read_file(AT_FDCWD, path + "/memory.events");
  if (!events) return 0;
  const size_t at = events->find("oom_kill ");
  return at == std::string::npos ? 0 : std::strtoull(events->c_str() + at + 9, nullptr, 10);
}

bool cgroup_frozen(const std::string& path) {
  Result<std::string> events = read_file(AT_FDCWD, path + "/cgroup.events");
  return events && events->find("frozen 1") != std::string::npos;
}

}  // namespace isopod::agent
