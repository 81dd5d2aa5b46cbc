// Talking to the launcher (core/report.h), waiting at the gate, and staying as a sandbox's first
// process.
#include <linux/prctl.h>

#include "init/stub.h"

namespace isopod::init {

namespace {

// struct iovec, msghdr and cmsghdr as the kernel has them.
struct Vector {
  const void* base;
  size_t size;
};
struct MessageHeader {
  void* name;
  uint32_t name_size;
  Vector* vectors;
  size_t vector_count;
  void* control;
  size_t control_size;
  uint32_t flags;
};
struct Rights {
  size_t size;
  int32_t level;
  int32_t type;
  int32_t fd;
  int32_t padding;
};

constexpr long kNoSignal =
    0x4000;  // MSG_NOSIGNAL: a launcher that is gone must not kill us with SIGPIPE

constexpr int kSigTerm = 15, kSigChld = 17;
constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }

}  // namespace

long report(const plan::Report& message, int fd) {
  Vector vector{&message, sizeof(message)};
  Rights rights{sizeof(Rights) - sizeof(int32_t), 1 /* SOL_SOCKET */, 1 /* SCM_RIGHTS */, fd, 0};
  MessageHeader header{};
  header.vectors = &vector;
  header.vector_count = 1;
  if (fd >= 0) {
    header.control = &rights;
    header.control_size = sizeof(rights);
  }
  const long sent = sys::raw(SYS_sendmsg, stub.sync, sys::word(&header), kNoSignal);
  // The container's seccomp filter may be in force already, and few forbid write.
  if ((sent == -kEperm || sent == -kEnosys || sent == -kEacces) && fd < 0)
    return sys::write(stub.sync, &message, sizeof(message));
  return sent;
}

long sync_point(uint32_t point) {
  plan::Report message{};
  message.type = plan::kReportSync;
  message.value = point;
  if (const long sent = report(message, -1); sent < 0) return sent;
  if (point == plan::kReady || point == plan::kExecuting) return 0;
  char go = 0;
  const long got = sys::read(stub.sync, &go, 1);
  if (got == 0) sys::exit_group(1);  // the launcher is gone; nobody would ever release us
  return got < 0 ? got : 0;
}

void fail(uint32_t op, uint32_t index, long error, const char* subject, const char* target) {
  plan::Report message{};
  message.type = plan::kReportFailed;
  message.op = op;
  message.index = index;
  message.error = static_cast<int32_t>(-error);
  append(message.subject, sizeof(message.subject), subject);
  append(message.target, sizeof(message.target), target);
  if (stub.why != nullptr) append(message.why, sizeof(message.why), stub.why);
  report(message, -1);
  sys::exit_group(1);
}

long op_gate(const Op& op) {
  if (const long sent = sync_point(plan::kReady); sent < 0) return sent;
  char start = 0;
  long got;
  do got = sys::read(stub.slots[op.a], &start, 1);
  while (got == -kEintr);
  if (got == 0) sys::exit_group(1);  // no writer is left that could start us
  return got < 0 ? got : 0;
}

// The filter that the plan gives must let pass: sendmsg, rt_sigtimedwait, wait4 and exit_group. As
// pid 1 of its namespace this process gets no signal without a handler, except by waiting for it
// while it is blocked.
void op_pause(uint32_t index, const Op& op) {
  const uint64_t wanted = bit(kSigTerm) | bit(kSigChld);
  const uint64_t all = ~uint64_t{0};
  sys::raw(SYS_rt_sigprocmask, 2 /* SIG_SETMASK */, sys::word(&all), 0, sizeof(all));
  for (int i = 0; i < static_cast<int>(plan::kMaxSlots); i++) close_fd(stub.slots[i]);
  sys::close_range(0, static_cast<unsigned>(stub.sync) - 1, 0);
  sys::close_range(static_cast<unsigned>(stub.sync) + 1, ~0u, 0);
  if (op.a != 0) {
    if (const long error = install_filter(op.a, op.b, 0); error < 0)
      fail(op.op, index, error, stub.plan.string(op.subject), "");
  }
  if (const long error = sync_point(plan::kReady); error < 0) sys::exit_group(1);
  for (;;) {
    const long signal = sys::raw(SYS_rt_sigtimedwait, sys::word(&wanted), 0, 0, sizeof(wanted));
    if (signal == kSigTerm) sys::exit_group(0);
    // Children that fell to us as pid 1: __WALL sees those of threads and odd clones too.
    while (sys::raw(SYS_wait4, -1, 0, 1 /* WNOHANG */ | 0x40000000 /* __WALL */, 0) > 0) {
    }
  }
}

}  // namespace isopod::init
