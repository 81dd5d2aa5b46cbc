// The first acts: from "a thread of Node that cloned and executed" to an ordinary process.
#include <linux/prctl.h>

#include "init/stub.h"

namespace isopod::init {

namespace {

struct Limit {
  uint64_t soft;
  uint64_t hard;
};
constexpr int kRlimitNofile = 7;
// The kernel's own soft default. Node raises soft to hard at start; a program that sizes tables by
// it (or loops over it) must not inherit that.
constexpr uint64_t kNofileSoft = 1024;

struct KernelSigaction {
  void (*handler)(int);
  uint64_t flags;
  void (*restorer)();
  uint64_t mask;
};
constexpr int kSignals = 64;

// CLONE_CLEAR_SIGHAND keeps SIG_IGN: what Node ignores (SIGPIPE, SIGXFSZ) would stay ignored in the
// container.
void reset_signals() {
  const KernelSigaction fallback{};
  for (int signal = 1; signal <= kSignals; signal++)
    sys::raw(SYS_rt_sigaction, signal, sys::word(&fallback), 0, sizeof(uint64_t));
  const uint64_t none = 0;
  sys::raw(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, sys::word(&none), 0, sizeof(none));
}

void restore_nofile() {
  Limit limit{};
  if (sys::raw(SYS_prlimit64, 0, kRlimitNofile, 0, sys::word(&limit)) < 0) return;
  if (limit.soft <= kNofileSoft || limit.hard < kNofileSoft) return;
  limit.soft = kNofileSoft;
  sys::raw(SYS_prlimit64, 0, kRlimitNofile, sys::word(&limit), 0);
}

// Joins a namespace made for this container and seen by nobody else: as if clone3 had made it.
long enter_given_netns() {
  const uint32_t given = stub.plan.header().flags >> plan::kNetnsShift & plan::kNetnsMask;
  if (given == 0) return 0;
  int fd = plan::kFirstFd + static_cast<int>(given) - 1;
  const long error = sys::setns(fd, CLONE_NEWNET);
  close_fd(fd);
  return error;
}

}  // namespace

long set_oom_score_adj(int32_t value) {
  const long fd = sys::openat(AT_FDCWD, "/proc/self/oom_score_adj", sys::kWronly | sys::kCloexec);
  if (fd < 0) return fd;
  char text[16] = "";
  append_number(text, sizeof(text), value);
  const long written = sys::write(static_cast<int>(fd), text, length(text));
  sys::close(static_cast<int>(fd));
  return written < 0 ? written : 0;
}

long prologue() {
  const plan::Header& header = stub.plan.header();
  if (header.oom_score_adj != plan::kKeepOom) {
    const long error = set_oom_score_adj(header.oom_score_adj);
    const bool tolerated =
        (header.flags & plan::kOomBestEffort) != 0 && (error == -kEacces || error == -kEperm);
    if (error < 0 && !tolerated) {
      stub.why = "oom_score_adj refused";
      return error;
    }
  }
  // CVE-2016-9962: until the final exec nobody may attach to us or read our descriptors.
  if (const long error = sys::prctl(PR_SET_DUMPABLE, 0); error < 0) return error;
  // What the launcher handed over must not survive an exec by accident (CVE-2024-21626).
  sys::close_range(plan::kSyncFd, ~0u, CLOSE_RANGE_CLOEXEC);
  if (const long error = enter_given_netns(); error < 0) return error;
  reset_signals();
  // Securebits of the daemon's service manager would change what setuid and capset mean later on.
  if (sys::prctl(PR_GET_SECUREBITS) != 0) {
    if (const long error = sys::prctl(PR_SET_SECUREBITS, 0); error < 0) return error;
  }
  sys::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
  sys::prctl(PR_SET_TIMERSLACK, 0);
  restore_nofile();
  sys::raw(SYS_umask, 0);  // modes in the plan are exact
  return sys::chdir("/");
}

}  // namespace isopod::init
