// tmpcopyup: what lies beneath a mount is copied into it. Both sides are walked by descriptors, so
// a link in the image leads nowhere; links, nodes and FIFOs are copied as what they are.
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr uint32_t kType = 0170000, kDirectory = 0040000, kRegular = 0100000, kLink = 0120000;
// Deeper trees are refused: each level holds a buffer on the stack.
constexpr int kMaxDepth = 128;

struct Entry {  // struct linux_dirent64
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[1];
};

long copy_directory(int from, int to, int depth);

long copy_content(int from, const char* name, int to) {
  const long in =
      sys::openat(from, name, sys::kRdonly | sys::kNofollow | sys::kNonblock | sys::kCloexec);
  if (in < 0) return in;
  const long out = sys::openat(
      to, name, sys::kWronly | sys::kCreat | sys::kExcl | sys::kNofollow | sys::kCloexec, 0600);
  constexpr long kChunk = 1 << 20;
  long copied = out < 0 ? out : 1;
  while (copied > 0) copied = sys::raw(SYS_sendfile, out, in, 0, kChunk);
  sys::close(static_cast<int>(in));
  if (out >= 0) sys::close(static_cast<int>(out));
  return copied;
}

long copy_link(int from, const char* name, int to) {
  char target[kPathMax];
  const long size =
      sys::raw(SYS_readlinkat, from, sys::word(name), sys::word(target), sizeof(target) - 1);
  if (size < 0) return size;
  target[size] = 0;
  return sys::raw(SYS_symlinkat, sys::word(target), to, sys::word(name));
}

long copy_subdirectory(int from, const char* name, int to, int depth) {
  const int flags = sys::kRdonly | sys::kDirectory | sys::kNofollow | sys::kCloexec;
  const long in = sys::openat(from, name, flags);
  if (in < 0) return in;
  long error = sys::raw(SYS_mkdirat, to, sys::word(name), 0700);
  const long out = error < 0 ? error : sys::openat(to, name, flags);
  error = out < 0 ? out : copy_directory(static_cast<int>(in), static_cast<int>(out), depth + 1);
  sys::close(static_cast<int>(in));
  if (out >= 0) sys::close(static_cast<int>(out));
  return error;
}

// The owner first: a change of owner clears setuid bits.
long copy_owner_and_mode(const char* name, int to, const struct statx& stat) {
  const long error =
      sys::raw(SYS_fchownat, to, sys::word(name), stat.stx_uid, stat.stx_gid, AT_SYMLINK_NOFOLLOW);
  if (error < 0 || (stat.stx_mode & kType) == kLink) return error;
  return sys::raw(SYS_fchmodat, to, sys::word(name), stat.stx_mode & 07777u);
}

long copy_entry(int from, const char* name, int to, int depth) {
  struct statx stat {};
  long error = sys::raw(SYS_statx, from, sys::word(name), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS,
                        sys::word(&stat));
  if (error < 0) return error;
  const uint32_t type = stat.stx_mode & kType;
  if (type == kDirectory) {
    error = copy_subdirectory(from, name, to, depth);
  } else if (type == kRegular) {
    error = copy_content(from, name, to);
  } else if (type == kLink) {
    error = copy_link(from, name, to);
  } else {
    const uint64_t device = device_number(stat.stx_rdev_major, stat.stx_rdev_minor);
    error = sys::raw(SYS_mknodat, to, sys::word(name), stat.stx_mode, static_cast<long>(device));
  }
  return error < 0 ? error : copy_owner_and_mode(name, to, stat);
}

long copy_directory(int from, int to, int depth) {
  if (depth > kMaxDepth) return -kE2big;
  alignas(Entry) char buffer[4096];
  for (;;) {
    const long size = sys::raw(SYS_getdents64, from, sys::word(buffer), sizeof(buffer));
    if (size <= 0) return size;
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      at += entry->size;
      const char* name = entry->name;
      if (equal(name, ".") || equal(name, "..")) continue;
      if (const long error = copy_entry(from, name, to, depth); error < 0) return error;
    }
  }
}

}  // namespace

// "." does not climb onto what covers the directory, so the first descriptor still reads what lies
// beneath.
long op_copy_up(const Op& op) {
  if (stub.covered < 0) return -kEinval;
  const int flags = sys::kRdonly | sys::kDirectory | sys::kCloexec;
  const long from = sys::openat(stub.covered, ".", flags);
  if (from < 0) return from;
  const long to = resolve(stub.plan.string(op.c), flags);
  const long error = to < 0 ? to : copy_directory(static_cast<int>(from), static_cast<int>(to), 0);
  sys::close(static_cast<int>(from));
  if (to >= 0) sys::close(static_cast<int>(to));
  return error;
}

}  // namespace isopod::init
