#include "agent/process.h"

#include <fcntl.h>

#include <utility>

#include "core/poller.h"

namespace isopod::agent {

namespace {

constexpr int64_t kDrainMs = 250;
constexpr int kLostStatus = 255;  // nobody can say how it ended

}  // namespace

std::shared_ptr<Process> Process::adopt(core::Launched launched, StdioEnds ends,
                                        std::function<void()> seen) {
  std::shared_ptr<Process> process(new Process());
  process->pid_ = launched.pid;
  process->pidfd_ = std::move(launched.pidfd);
  process->result_ = std::move(launched.result);
  process->seen_ = std::move(seen);
  const std::weak_ptr<Process> weak = process;
  process->stdio_ = std::make_unique<Stdio>(std::move(ends), std::move(launched.pty), [weak] {
    if (const auto self = weak.lock()) self->tell();
  });
  core::ExitWait wait;
  wait.pidfd.reset(::fcntl(process->pidfd_.get(), F_DUPFD_CLOEXEC, 3));
  // It is not forgotten before it has ended: the reap must happen.
  core::await_exit(core::Poller::control(), std::move(wait), [process](Result<core::Exit> exit) {
    process->ended(exit ? *exit : core::Exit{kLostStatus, core::wall_ns()});
  });
  return process;
}

void Process::ended(const core::Exit& exit) {
  exit_ = exit;
  exited_ = true;
  if (seen_) std::exchange(seen_, nullptr)();
  const std::weak_ptr<Process> weak = weak_from_this();
  core::Poller::control().after(kDrainMs, [weak] {
    const auto self = weak.lock();
    if (!self) return;
    self->patient_ = false;
    self->tell();
  });
  tell();
}

void Process::tell() {
  if (told_ || !exited_ || held_ > 0 || (patient_ && !stdio_->drained())) return;
  told_ = true;
  for (const std::function<void()>& then : std::exchange(waiting_, {})) then();
}

void Process::when_told(std::function<void()> then) {
  if (told_) return then();
  waiting_.push_back(std::move(then));
}

void Process::release() {
  held_--;
  tell();
}

}  // namespace isopod::agent
