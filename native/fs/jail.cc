#include "fs/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/kernel.h"

namespace isopod::fs {

namespace {

Status check(long result, const char* step, const char* subject) {
  if (result >= 0) return Done{};
  return failure(static_cast<int>(-result), step, subject);
}

Result<UniqueFd> proc_self_fd() {
  const UniqueFd context(static_cast<int>(sys::fsopen("proc", FSOPEN_CLOEXEC)));
  if (!context) return failure(errno, "fsopen", "proc");
  long result = sys::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  if (result < 0) return failure(static_cast<int>(-result), "fsconfig", "proc");
  result = sys::fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  if (result < 0) return failure(static_cast<int>(-result), "fsmount", "proc");
  const UniqueFd mount(static_cast<int>(result));
  UniqueFd fd(::openat(mount.get(), "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return failure(errno, "open", "/proc/self/fd");
  return fd;
}

constexpr int kKept[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                         CAP_SETGID, CAP_SETUID,       CAP_MKNOD};

uint32_t kept_mask() {
  uint32_t mask = 0;
  for (const int capability : kKept) mask |= 1u << capability;
  return mask;
}

}  // namespace

Status own_pid_namespace() {
  if (::getpid() == 1) return Done{};
  if (::unshare(CLONE_NEWPID) < 0) return failure(errno, "unshare", "pid namespace");
  const pid_t child = ::fork();
  if (child < 0) return failure(errno, "fork", "server");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Had our parent died before this line, the closed socket would end us.
    return Done{};
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

Result<Places> enter_tree(UniqueFd root) {
  Places places;
  Result<UniqueFd> proc = proc_self_fd();
  if (!proc) return proc.error();
  places.proc_fd = std::move(*proc);

  const long cloned = sys::open_tree(
      root.get(), "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (cloned < 0) return failure(static_cast<int>(-cloned), "open_tree", "shared tree");
  const UniqueFd tree(static_cast<int>(cloned));
  root.reset();
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
    return failure(errno, "unshare", "mount, net, ipc and uts namespaces");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return failure(errno, "mount", "private /");
  mount_attr slave{};
  slave.propagation = sys::kMsSlave;
  if (Status status = check(sys::mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, slave),
                            "mount_setattr", "shared tree");
      !status)
    return status.error();
  if (Status status = check(sys::move_mount(tree.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH),
                            "move_mount", "shared tree");
      !status)
    return status.error();
  if (::fchdir(tree.get()) < 0) return failure(errno, "chdir", "shared tree");
  // The old root is put on top of the new one and taken away from there: pivot_root(2).
  if (::syscall(SYS_pivot_root, ".", ".") < 0) return failure(errno, "pivot_root", "shared tree");
  if (::umount2(".", MNT_DETACH) < 0) return failure(errno, "umount", "old root");
  places.root.reset(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!places.root) return failure(errno, "open", "/");
  return places;
}

Status drop_capabilities() {
  for (int capability = 0; capability <= 63; capability++) {
    const bool kept = capability < 32 && (kept_mask() >> capability & 1) != 0;
    if (!kept && ::prctl(PR_CAPBSET_DROP, capability) < 0 && errno != EINVAL)
      return failure(errno, "prctl", "capability bounding set");
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  data[0].permitted = data[0].effective = kept_mask();
  if (::syscall(SYS_capset, &header, data) < 0) return failure(errno, "capset", "server");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return failure(errno, "prctl", "no_new_privs");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return failure(errno, "prctl", "dumpable");
  return Done{};
}

}  // namespace isopod::fs
