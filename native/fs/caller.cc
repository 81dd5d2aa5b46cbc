#include "fs/caller.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace isopod::fs {

namespace {

// Raw: glibc's wrappers would change every thread's identity, and these are one thread's.
long set_uid(uint32_t uid) { return syscall(SYS_setresuid, -1, uid, -1); }
long set_gid(uint32_t gid) { return syscall(SYS_setresgid, -1, gid, -1); }

struct Capabilities {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
};

// All that is permitted, without `drop`.
bool set_effective(uint32_t drop) {
  Capabilities now;
  if (syscall(SYS_capget, &now.header, now.data) < 0) return false;
  now.data[0].effective = now.data[0].permitted & ~drop;
  return syscall(SYS_capset, &now.header, now.data) == 0;
}

// A thread that cannot come back to itself would act as somebody else from then on.
void must(bool good) {
  if (!good) abort();
}

constexpr uint32_t bit(int capability) { return 1u << capability; }

}  // namespace

AsCaller::AsCaller(uint32_t uid, uint32_t gid) {
  if (uid == ~0u || gid == ~0u) {
    error_ = EOVERFLOW;
    return;
  }
  if (gid != 0) {
    if (set_gid(gid) < 0) {
      error_ = errno;
      return;
    }
    changed_gid_ = true;
  }
  if (uid == 0) return;
  if (set_uid(uid) < 0) {
    error_ = errno;
    return;
  }
  changed_uid_ = true;
  // An effective uid that leaves 0 takes the effective capabilities along; the permitted ones stay.
  if (!set_effective(bit(CAP_FSETID))) error_ = EPERM;
}

AsCaller::~AsCaller() {
  if (changed_uid_) must(set_uid(0) == 0 && set_effective(0));
  if (changed_gid_) must(set_gid(0) == 0);
}

WithoutFsetid::WithoutFsetid(bool wanted) {
  if (wanted) dropped_ = set_effective(bit(CAP_FSETID));
}

WithoutFsetid::~WithoutFsetid() {
  if (dropped_) must(set_effective(0));
}

}  // namespace isopod::fs
