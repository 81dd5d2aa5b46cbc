// The host: what it offers, and the few small things we do to it.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace isopod::core {

struct Features {
  std::string kernel;  // release, or the floor that ISOPOD_FEATURES forces
  std::string arch;
  std::string cgroup_root;  // of cgroup v2; empty: none
  std::vector<std::string> controllers;
  std::map<std::string, bool> flags;
  uint64_t effective_capabilities = 0;
  bool apparmor = false;
  bool selinux = false;
};
// Probed once. ISOPOD_FEATURES=5.15 turns off whatever came later, for tests on newer kernels.
const Features& features();

// True while the features of kernel `major.minor` may be used (see features()).
bool kernel_at_least(int major, int minor);

// mkfifo, exactly this mode and owner; uid or gid -1: leave. Undone on failure.
Status make_fifo(const std::string& path, mode_t mode, uid_t uid, gid_t gid);

// mount(2) with flags by name (`ro`, `nosuid`, `bind` …); whatever is no flag goes to the filesystem.
Status host_mount(const std::string& type, const std::string& source, const std::string& target,
                  const std::vector<std::string>& options);
// Detaches every mount at or below `path`; none is fine.
Status host_unmount(const std::string& path);

// sd_notify(3): false without NOTIFY_SOCKET.
Result<bool> notify(const std::string& state);

}  // namespace isopod::core
