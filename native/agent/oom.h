// Who waits for processes to be killed for want of memory: memory.events changes, inotify says so
// (Documentation/admin-guide/cgroup-v2.rst: "A read-only flat-keyed file which exists on non-root
// cgroups … a value change in this file generates a file modified event").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "agent/server.h"
#include "base/fd.h"

namespace isopod::agent {

// On the control poller only.
class OomWatch {
 public:
  OomWatch();

  // Answers once memory.events of `cgroup` counts more than `seen`.
  void wait(const Call& call, const std::string& cgroup, uint64_t seen);
  // The cgroup goes: whoever still waits fails.
  void forget(const std::string& cgroup);

 private:
  struct Waiter {
    Call call;
    uint64_t seen;
  };
  struct Watched {
    std::string cgroup;
    std::vector<Waiter> waiters;
  };

  void readable();
  void look(Watched& watched);

  UniqueFd inotify_;
  std::map<int, Watched> watched_;  // by inotify's watch descriptor
};

}  // namespace isopod::agent
