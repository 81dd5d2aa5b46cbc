#include "core/base_namespace.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include "base/kernel.h"

namespace isopod::core {

namespace {

// Of <sys/mount.h>, which cannot be had beside <linux/mount.h>.
constexpr int kDetach = 2;

long mount(const char* source, const char* target, const char* type, unsigned long flags,
           const char* data) {
  return sys::raw(SYS_mount, sys::word(source), sys::word(target), sys::word(type),
                  static_cast<long>(flags), sys::word(data));
}

// An O_PATH descriptor of a fresh tmpfs, not attached anywhere.
long detached_tmpfs() {
  const long context = sys::fsopen("tmpfs", 1);
  if (context < 0) return context;
  const UniqueFd fd(static_cast<int>(context));
  for (const char* option : {"source=isopod-base", "mode=0755", "size=64k"}) {
    const std::string text = option;
    const size_t at = text.find('=');
    const long error = sys::fsconfig(fd.get(), FSCONFIG_SET_STRING, text.substr(0, at).c_str(),
                                     text.c_str() + at + 1, 0);
    if (error < 0) return error;
  }
  if (const long error = sys::fsconfig(fd.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
      error < 0)
    return error;
  return sys::fsmount(fd.get(), 1, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

// The calling thread's "/" becomes the tmpfs; everything of the host is detached.
long pivot_to(int tmpfs) {
  if (::mkdirat(tmpfs, "root", 0755) < 0 || ::mkdirat(tmpfs, "empty", 0555) < 0) return -errno;
  // Nothing of what follows may reach the host's namespace, of which this is a copy.
  if (const long error = mount(nullptr, "/", nullptr, sys::kMsRec | sys::kMsPrivate, nullptr);
      error < 0)
    return error;
  if (const long error = sys::move_mount(tmpfs, "", AT_FDCWD, "/tmp", MOVE_MOUNT_F_EMPTY_PATH);
      error < 0)
    return error;
  if (const long error = sys::fchdir(tmpfs); error < 0) return error;
  if (const long error = sys::raw(SYS_pivot_root, sys::word("."), sys::word(".")); error < 0)
    return error;
  return sys::umount2(".", kDetach);
}

}  // namespace

Result<UniqueFd> base_namespace() {
  const auto failed = [](long error) {
    return failure(static_cast<int>(-error), "base namespace", "");
  };
  // A thread shares cwd and root with its process until it unshares them; NEWNS does so too.
  if (::unshare(CLONE_NEWNS | CLONE_FS) < 0) return failed(-errno);
  const UniqueFd proc(::open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC));
  if (!proc) return failed(-errno);
  const long tmpfs = detached_tmpfs();
  if (tmpfs < 0) return failed(tmpfs);
  const UniqueFd mounted(static_cast<int>(tmpfs));
  if (const long error = pivot_to(mounted.get()); error < 0) return failed(error);
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (const long error = sys::mount_setattr(mounted.get(), "", AT_EMPTY_PATH, attributes);
      error < 0)
    return failed(error);
  return UniqueFd(::fcntl(proc.get(), F_DUPFD_CLOEXEC, 3));
}

}  // namespace isopod::core
