// Descriptors 0, 1 and 2: FIFOs and /dev/null, or a terminal.
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr uint32_t kType = 0170000, kCharacter = 0020000;
constexpr long kDevptsMagic = 0x1cd1;
constexpr unsigned kByDescriptor = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
constexpr unsigned long kSetPtyLock = 0x40045431;  // TIOCSPTLCK
constexpr unsigned long kGetPtyPeer = 0x5441;      // TIOCGPTPEER
constexpr unsigned long kSetWindowSize = 0x5414;   // TIOCSWINSZ
constexpr unsigned long kSetControlling = 0x540e;  // TIOCSCTTY

struct Statfs {
  long type;
  long rest[15];
};
struct WindowSize {
  uint16_t rows, columns, x, y;
};

bool is_device(int fd, uint32_t major, uint32_t minor) {
  struct statx stat {};
  return stat_fd(fd, stat) >= 0 && (stat.stx_mode & kType) == kCharacter &&
         stat.stx_rdev_major == major && stat.stx_rdev_minor == minor;
}

// CVE-2025-31133: the container's /dev/null may be anything; looked at before it is opened, and
// after.
long open_null() {
  const long look = resolve("/dev/null", sys::kPath);
  if (look < 0) return look;
  const bool good = is_device(static_cast<int>(look), 1, 3);
  sys::close(static_cast<int>(look));
  const long fd = good ? resolve("/dev/null", sys::kRdwr) : -kEinval;
  if (fd >= 0 && is_device(static_cast<int>(fd), 1, 3)) return fd;
  if (fd >= 0) sys::close(static_cast<int>(fd));
  stub.why = "is not the null device";
  return fd < 0 ? fd : -kEinval;
}

// CVE-2025-52565: /dev/pts is held by a descriptor and must be a devpts; its ptmx is taken from
// that very mount, where no name but those of terminals can appear.
long open_master() {
  const long pts = resolve("/dev/pts", sys::kPath | sys::kDirectory);
  if (pts < 0) return pts;
  Statfs fs{};
  long master = sys::raw(SYS_fstatfs, pts, sys::word(&fs));
  if (master >= 0 && fs.type != kDevptsMagic) master = -kEinval;
  if (master >= 0) {
    open_how how{};
    how.flags = static_cast<uint64_t>(sys::kRdwr | sys::kNoctty | sys::kCloexec);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS;
    master = sys::openat2(static_cast<int>(pts), "ptmx", how);
  }
  sys::close(static_cast<int>(pts));
  if (master >= 0 && !is_device(static_cast<int>(master), 5, 2)) master = -kEinval;
  if (master == -kEinval) stub.why = "/dev/pts is not a devpts of its own";
  return master;
}

// /dev/console is the slave itself, bound from its descriptor over whatever file is there.
long bind_console(int slave) {
  char name[256];
  const long parent = resolve_parent("/dev/console", name);
  if (parent < 0) return parent;
  const long made = sys::raw(SYS_mknodat, parent, sys::word(name), 0100600, 0);
  sys::close(static_cast<int>(parent));
  if (made < 0 && made != -kEexist) return made;
  const long target = resolve("/dev/console", sys::kPath, RESOLVE_NO_SYMLINKS);
  if (target < 0) return target;
  const long clone = sys::open_tree(slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
  long error = clone;
  if (clone >= 0) {
    error =
        sys::move_mount(static_cast<int>(clone), "", static_cast<int>(target), "", kByDescriptor);
    sys::close(static_cast<int>(clone));
  }
  sys::close(static_cast<int>(target));
  return error;
}

}  // namespace

long op_console(const Op& op) {
  const long master = open_master();
  if (master < 0) return master;
  const int unlock = 0;
  long error = sys::ioctl(static_cast<int>(master), kSetPtyLock, const_cast<int*>(&unlock));
  const long slave = error < 0 ? error
                               : sys::ioctl(static_cast<int>(master), kGetPtyPeer,
                                            long{sys::kRdwr | sys::kNoctty | sys::kCloexec});
  if (slave < 0) return slave;
  WindowSize size{static_cast<uint16_t>(op.x >> 16), static_cast<uint16_t>(op.x), 0, 0};
  error = op.x == 0 ? 0 : sys::ioctl(static_cast<int>(master), kSetWindowSize, &size);
  if (error >= 0 && (op.b & 1) != 0) error = bind_console(static_cast<int>(slave));
  for (int fd = 0; error >= 0 && fd < 3; fd++) error = sys::dup3(static_cast<int>(slave), fd, 0);
  sys::close(static_cast<int>(slave));
  if (error >= 0) {
    sys::raw(SYS_setsid);  // EPERM: already a leader
    error = sys::ioctl(0, kSetControlling, 0L);
  }
  if (error < 0) return error;
  plan::Report message{};
  message.type = plan::kReportPty;
  error = report(message, static_cast<int>(master));
  sys::close(static_cast<int>(master));
  return error < 0 ? error : 0;
}

long op_stdio(const Op& op) {
  const uint32_t wanted[3] = {op.a, op.b, op.c};
  long null = -1;
  for (int fd = 0; fd < 3; fd++) {
    const uint32_t slot = wanted[fd];
    if (slot == plan::kNoSlot && null < 0) null = open_null();
    const long from = slot == plan::kNoSlot ? null : stub.slots[slot];
    if (from < 0) return from;
    if (const long error = sys::dup3(static_cast<int>(from), fd, 0); error < 0) return error;
  }
  if (null >= 0) sys::close(static_cast<int>(null));
  return 0;
}

// A FIFO or terminal that is not the user's could not be reopened through /proc/self/fd. EPERM and
// EROFS: an id that is not mapped, or a file on a read-only mount; the process still has its
// descriptors.
long op_chown_stdio(const Op& op) {
  for (int fd = 0; fd < 3; fd++) {
    struct statx stat {};
    if (stat_fd(fd, stat) < 0 || is_device(fd, 1, 3) || stat.stx_uid == op.a) continue;
    const long error = sys::raw(SYS_fchown, fd, static_cast<long>(op.a), -1);
    if (error < 0 && error != -kEperm && error != -30 /* EROFS */) return error;
  }
  return 0;
}

}  // namespace isopod::init
