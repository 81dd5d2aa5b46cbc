// Attributes of the process that are neither identity nor terminal.
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#include "init/stub.h"

namespace isopod::init {

namespace {

struct Limit {
  uint64_t soft;
  uint64_t hard;
};

// CVE-2025-52881: a procfs that nobody else has a path to, so no mount and no link can send the
// write to another file; NO_XDEV and NO_SYMLINKS besides.
long open_procfs(const char* path) {
  if (stub.procfs < 0) {
    const long fd =
        new_filesystem("proc", "proc", 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (fd < 0) return fd;
    stub.procfs = static_cast<int>(fd);
  }
  open_how how{};
  how.flags = static_cast<uint64_t>(sys::kWronly | sys::kCloexec);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return sys::openat2(stub.procfs, path, how);
}

// One write, which is what the kernel takes for one value. Consumes `fd`.
long write_value(long fd, const char* value) {
  if (fd < 0) return fd;
  const long written = sys::write(static_cast<int>(fd), value, length(value));
  sys::close(static_cast<int>(fd));
  return written < 0 ? written : 0;
}

}  // namespace

long op_sysctl(const Op& op) {
  char path[512] = "sys/";
  if (!append(path, sizeof(path), stub.plan.string(op.c))) return -kEnametoolong;
  return write_value(open_procfs(path), stub.plan.string(op.a));
}

// The profile is changed by the exec itself: until then we stay what we are, so a profile need not
// allow what we still do. A task may only name its own (apparmor_setprocattr), and while it is root:
// afterwards the file is not ours, as we are not dumpable.
long op_apparmor(const Op& op) {
  char path[64] = "", value[1024] = "exec ";
  append_number(path, sizeof(path), sys::raw(SYS_getpid));
  append(path, sizeof(path), "/attr/apparmor/exec");
  if (!append(value, sizeof(value), stub.plan.string(op.subject))) return -kEnametoolong;
  const long fd = open_procfs(path);
  if (fd < 0) return fd;
  const long error = write_value(fd, value);
  if (error == -kEnoent) stub.why = "no such profile is loaded";
  return error;
}

long op_rlimit(const Op& op) {
  const Limit limit{op.x, op.y};
  return sys::raw(SYS_prlimit64, 0, static_cast<long>(op.a), sys::word(&limit), 0);
}

// A uid change clears the signal, so this op comes after the last one. A parent that died before
// the prctl took effect is seen at the socket: getppid() says 0 in every new pid namespace, dead or
// alive.
long op_pdeathsig(const Op& op) {
  if (const long error = sys::prctl(PR_SET_PDEATHSIG, static_cast<long>(op.a)); error < 0)
    return error;
  constexpr short kHangup = 0x10;
  pollfd peer{};
  peer.fd = stub.sync;
  const uint64_t at_once[2] = {0, 0};
  const long ready = sys::raw(SYS_ppoll, sys::word(&peer), 1, sys::word(&at_once), 0, 0);
  if (ready > 0 && (peer.revents & kHangup) != 0) sys::exit_group(1);
  return ready < 0 ? ready : 0;
}

long install_filter(uint32_t blob, uint32_t size, uint32_t flags) {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(size / sizeof(sock_filter));
  if (size % sizeof(sock_filter) != 0 || size / sizeof(sock_filter) > BPF_MAXINSNS) return -kEinval;
  program.filter = const_cast<sock_filter*>(stub.plan.blob<sock_filter>(blob));
  return sys::raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, static_cast<long>(flags),
                  sys::word(&program));
}

// When only the exec follows, all that it needs besides execve itself is done before the filter
// bites.
long op_seccomp(const Op& op, const Op& next) {
  if (next.op == plan::kOpExec) {
    const long error = prepare_exec(next);
    if (error < 0 && stub.arguments == nullptr) return error;
  }
  return install_filter(op.a, op.b, op.c);
}

long op_keyring(const Op& op) {
  const long result =
      sys::raw(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, sys::word(stub.plan.string(op.subject)));
  // No key support, or the user's quota is used up: the container lives without a keyring of its
  // own.
  if (result == -kEnosys || result == -kEdquot) return 0;
  return result < 0 ? result : 0;
}

}  // namespace isopod::init
