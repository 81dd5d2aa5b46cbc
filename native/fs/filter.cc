// The server's system calls. The program is static, so the list is of this build and of nothing
// else.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <vector>

#include "fs/jail.h"

namespace isopod::fs {

namespace {

#if defined(__x86_64__)
constexpr uint32_t kArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArch = AUDIT_ARCH_AARCH64;
#endif

constexpr long kAllowed[] = {
    // requests
    SYS_recvfrom, SYS_sendmsg, SYS_close, SYS_write,
    // the handlers
    SYS_openat, SYS_statx, SYS_fstatfs, SYS_readlinkat, SYS_symlinkat, SYS_mknodat, SYS_mkdirat,
    SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_fchownat, SYS_fchmodat, SYS_utimensat,
    SYS_ftruncate, SYS_getdents64, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_syncfs, SYS_setxattr,
    SYS_getxattr, SYS_listxattr, SYS_removexattr,
    // in the caller's name
    SYS_setresuid, SYS_setresgid, SYS_capget, SYS_capset,
    // malloc, locks, the end
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_getrandom, SYS_sched_yield,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_exit,
    SYS_exit_group, SYS_restart_syscall};
// Never with PROT_EXEC, their third argument.
constexpr long kMapping[] = {SYS_mmap, SYS_mprotect};

sock_filter load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}
sock_filter give(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
sock_filter unless_equal(long value, uint8_t skip) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), 0, skip);
}

std::vector<sock_filter> program() {
  const uint32_t refused = SECCOMP_RET_ERRNO | EPERM;
  std::vector<sock_filter> code{load(offsetof(seccomp_data, arch)), unless_equal(kArch, 1),
                                load(offsetof(seccomp_data, nr))};
  // A foreign architecture has skipped the load: what is there is no number of the list's.
  for (const long call : kAllowed) {
    code.push_back(unless_equal(call, 1));
    code.push_back(give(SECCOMP_RET_ALLOW));
  }
  for (const long call : kMapping) {
    code.push_back(unless_equal(call, 4));
    code.push_back(load(offsetof(seccomp_data, args[2])));
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1));
    code.push_back(give(refused));
    code.push_back(give(SECCOMP_RET_ALLOW));
  }
  code.push_back(give(refused));
  return code;
}

}  // namespace

Status filter_calls() {
  std::vector<sock_filter> code = program();
  const sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
  const long result =
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  if (result < 0) return failure(errno, "seccomp", "server");
  if (result > 0) return Error{0, "seccomp", "server", "", "a thread has a filter of its own", {}};
  return Done{};
}

}  // namespace isopod::fs
