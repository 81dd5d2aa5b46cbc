// Who the process is: bounding set, groups, ids, capabilities, working directory.
#include <linux/capability.h>
#include <linux/prctl.h>

#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr int kCapabilities = 64;

bool has(uint64_t set, int capability) { return ((set >> capability) & 1) != 0; }

}  // namespace

long op_bounding(const Op& op) {
  for (int capability = 0; capability < kCapabilities; capability++) {
    const long now = sys::prctl(PR_CAPBSET_READ, capability);
    if (now < 0) break;  // beyond the kernel's last capability
    if (now == 0 || has(op.x, capability)) continue;
    if (const long error = sys::prctl(PR_CAPBSET_DROP, capability); error < 0) return error;
  }
  return 0;
}

long op_groups(const Op& op) {
  return sys::raw(SYS_setgroups, static_cast<long>(op.b),
                  sys::word(stub.plan.blob<uint32_t>(op.a)));
}

// KEEPCAPS lets kOpCaps choose what survives the change; execve clears the flag itself. The kernel
// drops the effective set on a change away from uid 0, so it is raised again from the permitted one
// for the ops between.
long op_ids(const Op& op) {
  if (const long error = sys::prctl(PR_SET_KEEPCAPS, 1); error < 0) return error;
  const long uid = static_cast<long>(op.a), gid = static_cast<long>(op.b);
  if (const long error = sys::raw(SYS_setresgid, gid, gid, gid); error < 0) return error;
  if (const long error = sys::raw(SYS_setresuid, uid, uid, uid); error < 0) return error;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (const long error = sys::raw(SYS_capget, sys::word(&header), sys::word(data)); error < 0)
    return error;
  for (auto& half : data) half.effective = half.permitted;
  if (const long error = sys::raw(SYS_capset, sys::word(&header), sys::word(data)); error < 0)
    return error;
  // setresuid has made us dumpable according to fs.suid_dumpable: not before the exec
  // (CVE-2016-9962).
  return sys::prctl(PR_SET_DUMPABLE, 0);
}

// CVE-2022-29162: inheritable is what the plan says, and the plan's default is nothing.
long op_caps(const Op& op) {
  const uint64_t* inheritable = stub.plan.blob<uint64_t>(op.a);
  const uint64_t* ambient = stub.plan.blob<uint64_t>(op.b);
  const uint64_t sets[3] = {op.x, op.y, inheritable == nullptr ? 0 : *inheritable};
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int half = 0; half < 2; half++) {
    data[half].effective = static_cast<uint32_t>(sets[0] >> (32 * half));
    data[half].permitted = static_cast<uint32_t>(sets[1] >> (32 * half));
    data[half].inheritable = static_cast<uint32_t>(sets[2] >> (32 * half));
  }
  if (const long error = sys::raw(SYS_capset, sys::word(&header), sys::word(data)); error < 0)
    return error;
  if (const long error = sys::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL); error < 0)
    return error;
  for (int capability = 0; ambient != nullptr && capability < kCapabilities; capability++) {
    if (!has(*ambient, capability)) continue;
    if (const long error = sys::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability); error < 0)
      return error;
  }
  return 0;
}

// CVE-2024-21626: the directory is reached from the root without magic links, so /proc/self/fd/N
// leads nowhere, and the kernel is asked afterwards whether it lies inside ("(unreachable)" does
// not begin with /).
long op_cwd(const Op& op) {
  const char* path = stub.plan.string(op.c);
  const long fd = (op.a & 1) != 0 ? make_directories(path, 0755, 0, 0)
                                  : resolve(path, sys::kPath | sys::kDirectory);
  if (fd < 0) return fd;
  long error = sys::fchdir(static_cast<int>(fd));
  sys::close(static_cast<int>(fd));
  if (error < 0) return error;
  char where[kPathMax];
  error = sys::raw(SYS_getcwd, sys::word(where), sizeof(where));
  if (error < 0) return error;
  if (where[0] == '/') return 0;
  stub.why = "leads out of the container";
  return -kEnoent;
}

}  // namespace isopod::init
