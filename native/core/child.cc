#include "core/child.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "base/kernel.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

namespace isopod::core {

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr size_t kGuard = 4096;

// One per launcher, kept: a launcher has one child at a time before its exec.
void* child_stack() {
  thread_local void* stack = nullptr;
  if (stack == nullptr) {
    void* mapped = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    mprotect(mapped, kGuard, PROT_NONE);
    stack = static_cast<char*>(mapped) + kGuard;
  }
  return stack;
}

long mask_signals(uint64_t mask, uint64_t* before) {
  return arch::raw(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, sys::word(&mask), sys::word(before),
                   sizeof(mask));
}

}  // namespace

Child clone_child(uint64_t flags, int cgroup, void (*entry)(void*), void* data) {
  Child child;
  void* stack = child_stack();
  if (stack == nullptr) {
    child.err = ENOMEM;
    return child;
  }
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  arguments.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  arguments.stack = reinterpret_cast<uint64_t>(stack);
  arguments.stack_size = kStack;
  arguments.exit_signal = 17;  // SIGCHLD, which exec would set anyway
  if (cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<uint64_t>(cgroup);
  }
  // pthread_sigmask cannot block glibc's internal signals; a raw full mask can, and must not stay:
  // it would hang setuid() in any thread of Node for ever.
  uint64_t before = 0;
  mask_signals(~uint64_t{0}, &before);
  const long pid = arch::clone_call(SYS_clone3, &arguments, sizeof(arguments), entry, data);
  mask_signals(before, nullptr);
  if (pid < 0)
    child.err = static_cast<int>(-pid);
  else
    child.pid = static_cast<int>(pid);
  child.pidfd.reset(pidfd);
  return child;
}

long place_descriptors(int* sources, int count, int extra) {
  for (int i = 0; i < count; i++) {
    if (sources[i] >= count) continue;
    const long high = sys::fcntl(sources[i], F_DUPFD_CLOEXEC, count);
    if (high < 0) return high;
    // Only the number changes: the table is ours, the array is the parent's, who is done with it.
    sources[i] = static_cast<int>(high);
  }
  long moved = extra;
  if (extra >= 0 && extra < count) {
    moved = sys::fcntl(extra, F_DUPFD_CLOEXEC, count);
    if (moved < 0) return moved;
  }
  for (int i = 0; i < count; i++)
    if (const long error = sys::dup3(sources[i], i, 0); error < 0) return error;
  return moved;
}

void reset_signals() {
  struct {
    void (*handler)(int);
    uint64_t flags;
    void (*restorer)();
    uint64_t mask;
  } fallback{};
  for (int signal = 1; signal <= 64; signal++)
    arch::raw(SYS_rt_sigaction, signal, sys::word(&fallback), 0, sizeof(uint64_t));
  mask_signals(0, nullptr);
}

}  // namespace isopod::core
