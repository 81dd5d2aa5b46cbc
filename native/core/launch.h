// Launching: one plan becomes one process (design §4).
//
//   the loop      checks the plan, listens to the stub's socket from before there is a stub
//   launcher      cgroup, device program, clone3, stub executed
//   the loop      answers the stub's sync points, reaps a failed one
//   a job thread  undoes the cgroup
//
// The loop is whose thread calls, Node's as a rule: the stub's word needs no thread in between.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/cgroup_write.h"
#include "core/loop.h"

namespace isopod::core {

struct LaunchRequest {
  std::vector<uint8_t> plan;
  std::vector<UniqueFd> fds;
  std::string cgroup;  // "": the caller's own
  CgroupWrites cgroup_writes;
  std::vector<uint8_t> device_program;
  // The cgroup is made by somebody else, once there is a process for it (unit_place.h): called with
  // its pid while the stub waits; answered once, on any thread. And what undoes that.
  std::function<void(int, std::function<void(Status)>)> place;
  std::function<void(std::function<void()>)> unplace;
  bool until_exec = false;
  UniqueFd init_image;  // instead of the built-in one
};

struct Launched {
  int pid = 0;
  UniqueFd pidfd;
  UniqueFd result;  // until ready only
  UniqueFd pty;
};

// On the loop's thread, as `done` is, once. If the loop closes first, the launch is undone instead.
void launch(Loop& loop, LaunchRequest request, std::function<void(Result<Launched>)> done);

// Waits for the end of a launch that was `ready`; the same rules.
void await_exec(Loop& loop, UniqueFd result, std::function<void(Status)> done);

}  // namespace isopod::core
