// Running a program of the host to its end (R11): CNI plugins, shims' launchers, hooks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

struct SpawnRequest {
  std::string file;
  std::vector<std::string> args;  // args[0] is the program's name
  std::vector<std::string> env;
  std::string cwd;  // "": unchanged
  bool has_stdin = false;
  std::vector<uint8_t> input;
  std::map<int, UniqueFd> fds;  // child's number → descriptor
  int64_t timeout_ms = 0;
  size_t max_output = 1 << 20;
};

struct Spawned {
  int status = 0;
  bool timed_out = false;
  std::string out;
  std::string err;
};

// The child leads a process group of its own, which gets SIGKILL at the deadline. Resolves when the
// program itself has ended: what it left running keeps running (a shim's `start` leaves its
// server), and output that arrives later is not waited for.
void spawn(SpawnRequest request, std::function<void(Result<Spawned>)> done);

}  // namespace isopod::core
