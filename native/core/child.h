// Starting a child that shares this process's memory until it executes (CLONE_VM|CLONE_VFORK): no
// page table is copied, whatever the size of Node's heap. Between clone and exec the child runs
// only raw system calls on data made before, on a stack of its own: every store lands in Node.
#pragma once

#include <cstdint>

#include "base/fd.h"

namespace isopod::core {

struct Child {
  int pid = -1;
  UniqueFd pidfd;
  int err = 0;  // of clone3
};

// On a launcher only. `entry(data)` runs in the child with all signals blocked, what Node handles
// reset to default, and a copy of the descriptor table; it must execute or exit. Returns once it
// has done so. `flags` are added to VM|VFORK|PIDFD|CLEAR_SIGHAND; `cgroup` < 0: the caller's.
Child clone_child(uint64_t flags, int cgroup, void (*entry)(void*), void* data);

// In the child: makes descriptors 0 ... count-1 copies of `sources`, none of them close-on-exec.
// Sources may lie below count: they are moved out of the way first. `extra` is moved likewise and
// its number returned. -errno on failure.
long place_descriptors(int* sources, int count, int extra);
// In the child: dispositions that CLONE_CLEAR_SIGHAND leaves (SIG_IGN) back to default, nothing
// blocked.
void reset_signals();

}  // namespace isopod::core
