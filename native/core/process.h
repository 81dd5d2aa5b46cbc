// Processes by pidfd: signals and exits.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "core/loop.h"

namespace isopod::core {

struct Exit {
  int status = 0;         // exit code, or 128 + signal
  int64_t exited_at = 0;  // ns since 1970
};

struct ExitWait {
  UniqueFd pidfd;      // a duplicate of the caller's
  std::string record;  // "": none
  bool child = true;
};

// Reaps a child that has ended. False if it has not (unless `block`).
bool reap(int pidfd, bool block);
// 0 or errno; ESRCH: it has ended.
int send_signal(int pidfd, int signal);
// -1 with errno.
int pidfd_open(int pid);

// R2: the record is written before the reap, so whoever survives us knows how it ended: until then
// the kernel remembers, from then on the file does. On the loop's thread; `done` is called there,
// or on the control poller's for a process that is not ours. If the loop closes first, the record
// is written and the process reaped all the same, and `done` is not called.
void await_exit(Loop& loop, ExitWait wait, std::function<void(Result<Exit>)> done);

}  // namespace isopod::core
