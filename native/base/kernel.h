// The system calls of the launch path, raw: the init stub has no libc, a CLONE_VM child must not
// touch errno, and glibc wraps few of the mount calls. All return a result or -errno and retry
// nothing. Constants newer than the oldest headers we build with are defined here.
#pragma once

#include <linux/close_range.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <sys/syscall.h>

#include "base/arch.h"

#ifndef FSCONFIG_CMD_CREATE_EXCL
#define FSCONFIG_CMD_CREATE_EXCL 8
#endif
// <linux/fcntl.h> cannot be had beside glibc's <fcntl.h>.
#ifndef AT_FDCWD
#define AT_FDCWD (-100)
#endif
#ifndef O_CLOEXEC
#define O_CLOEXEC 02000000
#endif
#ifndef AT_SYMLINK_NOFOLLOW
#define AT_SYMLINK_NOFOLLOW 0x100
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

namespace isopod::sys {

using arch::raw;

template <typename T>
inline long word(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

// Open flags as the kernel of every supported 64-bit architecture has them (asm/fcntl.h differs in
// four).
constexpr int kRdonly = 0, kWronly = 1, kRdwr = 2, kCreat = 0100, kExcl = 0200, kNoctty = 0400,
              kTrunc = 01000, kNonblock = 04000, kCloexec = 02000000, kPath = 010000000;
#if defined(__aarch64__)
constexpr int kDirectory = 040000, kNofollow = 0100000;
#else
constexpr int kDirectory = 0200000, kNofollow = 0400000;
#endif

// MS_* propagation words, for mount_attr.propagation.
constexpr uint64_t kMsRec = 0x4000, kMsUnbindable = 1u << 17, kMsPrivate = 1u << 18,
                   kMsSlave = 1u << 19, kMsShared = 1u << 20;

inline long openat(int dir, const char* path, int flags, unsigned mode = 0) {
  return raw(SYS_openat, dir, word(path), flags, static_cast<long>(mode));
}
inline long openat2(int dir, const char* path, const open_how& how) {
  return raw(SYS_openat2, dir, word(path), word(&how), sizeof(how));
}
// Never retried: Linux frees the number even when it reports EINTR.
inline long close(int fd) { return raw(SYS_close, fd); }
inline long close_range(unsigned first, unsigned last, unsigned flags) {
  return raw(SYS_close_range, static_cast<long>(first), static_cast<long>(last),
             static_cast<long>(flags));
}
inline long read(int fd, void* data, size_t size) {
  return raw(SYS_read, fd, word(data), static_cast<long>(size));
}
inline long write(int fd, const void* data, size_t size) {
  return raw(SYS_write, fd, word(data), static_cast<long>(size));
}
inline long dup3(int from, int to, int flags) { return raw(SYS_dup3, from, to, flags); }
inline long fcntl(int fd, int command, long argument) {
  return raw(SYS_fcntl, fd, command, argument);
}
inline long ioctl(int fd, unsigned long request, long argument) {
  return raw(SYS_ioctl, fd, static_cast<long>(request), argument);
}
inline long ioctl(int fd, unsigned long request, void* argument) {
  return ioctl(fd, request, word(argument));
}

inline long open_tree(int dir, const char* path, unsigned flags) {
  return raw(SYS_open_tree, dir, word(path), static_cast<long>(flags));
}
inline long move_mount(int from, const char* from_path, int to, const char* to_path,
                       unsigned flags) {
  return raw(SYS_move_mount, from, word(from_path), to, word(to_path), static_cast<long>(flags));
}
inline long fsopen(const char* type, unsigned flags) {
  return raw(SYS_fsopen, word(type), static_cast<long>(flags));
}
inline long fsconfig(int fd, unsigned command, const char* key, const void* value, int aux) {
  return raw(SYS_fsconfig, fd, static_cast<long>(command), word(key), word(value), aux);
}
inline long fsmount(int fd, unsigned flags, unsigned attributes) {
  return raw(SYS_fsmount, fd, static_cast<long>(flags), static_cast<long>(attributes));
}
inline long mount_setattr(int dir, const char* path, unsigned flags, const mount_attr& attributes) {
  return raw(SYS_mount_setattr, dir, word(path), static_cast<long>(flags), word(&attributes),
             sizeof(attributes));
}
inline long umount2(const char* path, int flags) { return raw(SYS_umount2, word(path), flags); }

inline long setns(int fd, unsigned type) { return raw(SYS_setns, fd, static_cast<long>(type)); }
inline long unshare(unsigned flags) { return raw(SYS_unshare, static_cast<long>(flags)); }
inline long fchdir(int fd) { return raw(SYS_fchdir, fd); }
inline long chdir(const char* path) { return raw(SYS_chdir, word(path)); }

inline long prctl(int option, long a = 0, long b = 0, long c = 0, long d = 0) {
  return raw(SYS_prctl, option, a, b, c, d);
}
[[noreturn]] inline void exit_group(int status) {
  for (;;) raw(SYS_exit_group, status);
}

}  // namespace isopod::sys
