// Launching: one plan becomes one process (design §4).
//
//   JS thread     copies plan and descriptors
//   launcher      checks the plan, cgroup, device program, clone3, stub executed
//   poller        hears the stub, answers its sync points, reaps a failed one, undoes the cgroup
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/cgroup_write.h"

namespace isopod::core {

struct LaunchRequest {
  std::vector<uint8_t> plan;
  std::vector<UniqueFd> fds;
  std::string cgroup;  // "": the caller's own
  CgroupWrites cgroup_writes;
  std::vector<uint8_t> device_program;
  bool until_exec = false;
  UniqueFd init_image;  // instead of the built-in one
};

struct Launched {
  int pid = 0;
  UniqueFd pidfd;
  UniqueFd result;  // until ready only
  UniqueFd pty;
};

// `done` is called once, on a thread of the core.
void launch(LaunchRequest request, std::function<void(Result<Launched>)> done);

// Waits for the end of a launch that was `ready`.
void await_exec(UniqueFd result, std::function<void(Status)> done);

}  // namespace isopod::core
