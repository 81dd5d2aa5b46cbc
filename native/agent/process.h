// One process that the agent launched: a container's first, or an exec.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/server.h"
#include "agent/stdio.h"
#include "base/fd.h"
#include "core/launch.h"
#include "core/process.h"

namespace isopod::agent {

// On the control poller only.
//
//   launched --exit--> exited --output ended, or kDrainMs--> told
//
// Wait is answered when it is told: the host has all output by then, unless a child of the process
// still holds it.
class Process : public std::enable_shared_from_this<Process> {
 public:
  // `seen` is called at the exit, before anybody is told.
  static std::shared_ptr<Process> adopt(core::Launched launched, StdioEnds ends,
                                        std::function<void()> seen);

  int pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  bool exited() const { return exited_; }
  bool told() const { return told_; }
  const core::Exit& exit() const { return exit_; }
  Stdio& stdio() { return *stdio_; }
  // Until READY only.
  UniqueFd take_result() { return std::move(result_); }

  // Calls `then` at once if it has been told already.
  void when_told(std::function<void()> then);
  // Keeps the end from being told until `release`: an exec's end comes before its container's.
  void hold() { held_++; }
  void release();

 private:
  Process() = default;
  void ended(const core::Exit& exit);
  void tell();

  int pid_ = 0;
  UniqueFd pidfd_;
  UniqueFd result_;
  std::unique_ptr<Stdio> stdio_;
  std::function<void()> seen_;
  std::vector<std::function<void()>> waiting_;
  core::Exit exit_;
  bool exited_ = false;
  bool told_ = false;
  bool patient_ = true;  // the drain's deadline has not passed
  int held_ = 0;
};

}  // namespace isopod::agent
