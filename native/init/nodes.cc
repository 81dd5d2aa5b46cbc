// Directories, links, devices and small files inside the root.
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr uint32_t kType = 0170000, kRegular = 0100000, kCharacter = 0020000, kBlock = 0060000;

uint32_t low(uint64_t pair) { return static_cast<uint32_t>(pair); }
uint32_t high(uint64_t pair) { return static_cast<uint32_t>(pair >> 32); }

long write_all(int fd, const uint8_t* bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    const long n = sys::write(fd, bytes + done, size - done);
    if (n == -kEintr) continue;
    if (n <= 0) return n < 0 ? n : -kEio;
    done += static_cast<size_t>(n);
  }
  return 0;
}

// Opens an existing file for rewriting. It is looked at before it is opened and again afterwards:
// to open a device has effects of its own, and to open a FIFO would wait (hence O_NONBLOCK).
long reopen_file(const char* path) {
  const long look = resolve(path, sys::kPath);
  if (look < 0) return look;
  struct statx stat {};
  long error = stat_fd(static_cast<int>(look), stat);
  sys::close(static_cast<int>(look));
  if (error >= 0 && (stat.stx_mode & kType) != kRegular) error = -kEinval;
  if (error < 0) {
    stub.why = "is not a regular file";
    return error;
  }
  const long fd = resolve(path, sys::kWronly | sys::kNonblock | sys::kNoctty);
  if (fd < 0) return fd;
  error = stat_fd(static_cast<int>(fd), stat);
  if (error >= 0 && (stat.stx_mode & kType) != kRegular) error = -kEinval;
  if (error >= 0) error = sys::raw(SYS_ftruncate, fd, 0);
  if (error < 0) sys::close(static_cast<int>(fd));
  return error < 0 ? error : fd;
}

}  // namespace

uint64_t device_number(uint32_t major, uint32_t minor) {
  return (minor & 0xffu) | (uint64_t{major & 0xfffu} << 8) | (uint64_t{minor & ~0xffu} << 12) |
         (uint64_t{major & ~0xfffu} << 32);
}

long op_mkdir(const Op& op) {
  const long fd = make_directories(stub.plan.string(op.c), op.a, low(op.x), high(op.x));
  if (fd >= 0) sys::close(static_cast<int>(fd));
  return fd;
}

long op_symlink(const Op& op) {
  char name[256];
  const long parent = resolve_parent(stub.plan.string(op.c), name);
  if (parent < 0) return parent;
  const long error =
      sys::raw(SYS_symlinkat, sys::word(stub.plan.string(op.a)), parent, sys::word(name));
  sys::close(static_cast<int>(parent));
  return error == -kEexist ? 0 : error;
}

long op_mknod(const Op& op) {
  char name[256];
  const long parent = resolve_parent(stub.plan.string(op.c), name);
  if (parent < 0) return parent;
  const uint32_t type = op.a & kType;
  const bool device = type == kCharacter || type == kBlock;
  const uint32_t major = op.b >> 20, minor = op.b & 0xfffffu;
  const uint64_t number = device ? device_number(major, minor) : 0;
  const long made = sys::raw(SYS_mknodat, parent, sys::word(name), static_cast<long>(op.a),
                             static_cast<long>(number));
  long error = made == -kEexist ? 0 : made;
  // What was there, or what somebody swapped in: held by a descriptor and looked at before it is
  // trusted.
  const long node = error < 0 ? error
                              : sys::openat(static_cast<int>(parent), name,
                                            sys::kPath | sys::kNofollow | sys::kCloexec);
  sys::close(static_cast<int>(parent));
  if (node < 0) return node;
  struct statx stat {};
  error = stat_fd(static_cast<int>(node), stat);
  const bool same = error >= 0 && (stat.stx_mode & kType) == type &&
                    (!device || (stat.stx_rdev_major == major && stat.stx_rdev_minor == minor));
  if (error >= 0 && !same) {
    stub.why = "exists and is something else";
    error = -kEexist;
  }
  if (error >= 0 && made >= 0 && op.x != 0)
    error = sys::raw(SYS_fchownat, node, sys::word(""), low(op.x), high(op.x), AT_EMPTY_PATH);
  sys::close(static_cast<int>(node));
  return error < 0 ? error : 0;
}

long op_write_file(const Op& op) {
  const char* path = stub.plan.string(op.c);
  char name[256];
  const long parent = resolve_parent(path, name);
  if (parent < 0) return parent;
  long fd =
      sys::openat(static_cast<int>(parent), name,
                  sys::kWronly | sys::kCreat | sys::kExcl | sys::kNofollow | sys::kCloexec, op.d);
  sys::close(static_cast<int>(parent));
  if (fd == -kEexist && (op.x & 1) != 0) fd = reopen_file(path);
  if (fd < 0) return fd;
  const long error = write_all(static_cast<int>(fd), stub.plan.blob<uint8_t>(op.a), op.b);
  sys::close(static_cast<int>(fd));
  return error;
}

}  // namespace isopod::init
