// Names: made, removed, moved. All calls work on a directory's descriptor and one component.
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/session.h"

namespace isopod::fs {

namespace {

// Makes one thing in the caller's name, then tells of it.
template <typename Make>
Errno make(Session& session, Session::Call& call, const char* name, Make&& how) {
  if (call.node->type != S_IFDIR) return ENOTDIR;
  if (!valid_name(name)) return EINVAL;
  {
    const AsCaller caller(call.header.uid, call.header.gid);
    if (caller.error() != 0) return caller.error();
    if (how(call.node->fd.get(), name) < 0) return errno;
  }
  fuse_entry_out entry;
  if (const Errno error = session.enter(*call.node, name, entry); error != 0) return error;
  call.out.put(entry);
  return 0;
}

// Devices in a tree that others see too are doors into the host's kernel. In a container's root
// file system, which nothing on the host opens, they are what mknod(1) in a container is used to.
bool may_make(const Inode& parent, uint32_t mode, uint32_t rdev) {
  const uint32_t type = mode & S_IFMT;
  if (type == S_IFREG || type == S_IFIFO || type == S_IFSOCK || type == 0) return true;
  if (type == S_IFCHR && rdev == 0)
    return true;  // overlay's whiteout, a device that nothing drives
  return (type == S_IFCHR || type == S_IFBLK) && parent.exclusive;
}

Errno move(Session& session, Session::Call& call, uint64_t to_id, unsigned flags) {
  constexpr unsigned kKnown = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
  const auto from = call.in.text();
  const auto to = call.in.text();
  if (!from || !to || !valid_name(*from) || !valid_name(*to)) return EINVAL;
  if ((flags & ~kKnown) != 0) return EINVAL;
  const InodeRef directory = session.inodes().find(to_id);
  if (!directory) return ESTALE;
  // Raw: glibc makes another call of it where there are no flags, one that the filter does not
  // know.
  return syscall(SYS_renameat2, call.node->fd.get(), *from, directory->fd.get(), *to, flags) < 0
             ? errno
             : 0;
}

Errno remove(Session::Call& call, int flags) {
  const auto name = call.in.text();
  if (!name || !valid_name(*name)) return EINVAL;
  return ::unlinkat(call.node->fd.get(), *name, flags) < 0 ? errno : 0;
}

}  // namespace

Errno symlink(Session& session, Session::Call& call) {
  const auto name = call.in.text();
  const auto target = call.in.text();
  if (!name || !target) return EINVAL;
  return make(session, call, *name,
              [&](int directory, const char* at) { return ::symlinkat(*target, directory, at); });
}

Errno mknod(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_mknod_in>();
  const auto name = call.in.text();
  if (!in || !name) return EINVAL;
  if (!may_make(*call.node, in->mode, in->rdev)) return EPERM;
  return make(session, call, *name, [&](int directory, const char* at) {
    return ::mknodat(directory, at, in->mode, in->rdev);
  });
}

Errno mkdir(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_mkdir_in>();
  const auto name = call.in.text();
  if (!in || !name) return EINVAL;
  return make(session, call, *name, [&](int directory, const char* at) {
    return ::mkdirat(directory, at, in->mode & 07777);
  });
}

Errno unlink(Session&, Session::Call& call) { return remove(call, 0); }
Errno rmdir(Session&, Session::Call& call) { return remove(call, AT_REMOVEDIR); }

Errno rename(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_rename_in>();
  return in ? move(session, call, in->newdir, 0) : EINVAL;
}

Errno rename2(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_rename2_in>();
  return in ? move(session, call, in->newdir, in->flags) : EINVAL;
}

// The header names the directory, the argument what is linked.
Errno link(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_link_in>();
  const auto name = call.in.text();
  if (!in || !name || !valid_name(*name)) return EINVAL;
  const InodeRef target = session.inodes().find(in->oldnodeid);
  if (!target) return ESTALE;
  if (target->type == S_IFDIR) return EPERM;
  // By its descriptor: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
  char proc[16];
  snprintf(proc, sizeof proc, "%d", target->fd.get());
  if (::linkat(AT_FDCWD, proc, call.node->fd.get(), *name, AT_SYMLINK_FOLLOW) < 0) return errno;
  fuse_entry_out entry;
  if (const Errno error = session.enter(*call.node, *name, entry); error != 0) return error;
  call.out.put(entry);
  return 0;
}

}  // namespace isopod::fs
