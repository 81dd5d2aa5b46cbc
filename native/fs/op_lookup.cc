// Inodes: found, forgotten, read and changed.
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "fs/caller.h"
#include "fs/session.h"

namespace isopod::fs {

namespace {

struct ProcName {
  char text[16];
  explicit ProcName(const Inode& inode) { snprintf(text, sizeof text, "%d", inode.fd.get()); }
};

timespec time_of(bool set, bool now, uint64_t seconds, uint32_t nanoseconds) {
  if (!set) return {0, UTIME_OMIT};
  if (now) return {0, UTIME_NOW};
  return {static_cast<time_t>(seconds), static_cast<long>(std::min(nanoseconds, 999999999u))};
}

Errno set_size(Session& session, const Inode& inode, uint64_t size, bool kill) {
  if (inode.type != S_IFREG) return inode.type == S_IFDIR ? EISDIR : EINVAL;
  if (size > static_cast<uint64_t>(INT64_MAX)) return EFBIG;
  const UniqueFd file = session.reopen(inode, O_WRONLY);
  if (!file) return errno;
  const WithoutFsetid without(kill);
  return ftruncate(file.get(), static_cast<off_t>(size)) < 0 ? errno : 0;
}

// Owner before mode: a change of owner clears set-user-id, which the mode may be about to set.
Errno change(Session& session, const Inode& inode, const fuse_setattr_in& to) {
  const uint32_t valid = to.valid;
  const ProcName name(inode);
  if ((valid & (FATTR_UID | FATTR_GID)) != 0) {
    const uid_t uid = (valid & FATTR_UID) != 0 ? to.uid : ~0u;
    const gid_t gid = (valid & FATTR_GID) != 0 ? to.gid : ~0u;
    if (fchownat(inode.fd.get(), "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
      return errno;
  }
  if ((valid & FATTR_MODE) != 0) {
    if (inode.type == S_IFLNK) return EOPNOTSUPP;
    if (::fchmodat(AT_FDCWD, name.text, to.mode & 07777, 0) < 0) return errno;
  }
  if ((valid & FATTR_SIZE) != 0) {
    const bool kill = (valid & FATTR_KILL_SUIDGID) != 0;
    if (const Errno error = set_size(session, inode, to.size, kill); error != 0) return error;
  }
  if ((valid & (FATTR_ATIME | FATTR_MTIME)) != 0) {
    const timespec times[2] = {
        time_of((valid & FATTR_ATIME) != 0, (valid & FATTR_ATIME_NOW) != 0, to.atime, to.atimensec),
        time_of((valid & FATTR_MTIME) != 0, (valid & FATTR_MTIME_NOW) != 0, to.mtime, to.mtimensec),
    };
    if (utimensat(AT_FDCWD, name.text, times, 0) < 0) return errno;
  }
  return 0;
}

Errno tell_attributes(Session& session, Session::Call& call) {
  struct statx stat {};
  if (const int error = stat_of(call.node->fd.get(), stat); error != 0) return error;
  fuse_attr_out out{};
  out.attr_valid = entry_lifetime(*call.node);
  out.attr = session.attributes(*call.node, stat, call.node->mount);
  call.out.put(out);
  return 0;
}

}  // namespace

Errno lookup(Session& session, Session::Call& call) {
  const auto name = call.in.text();
  if (!name || !valid_name(*name)) return EINVAL;
  fuse_entry_out entry;
  if (const Errno error = session.enter(*call.node, *name, entry); error != 0) return error;
  call.out.put(entry);
  return 0;
}

Errno forget(Session& session, Session::Call& call) {
  if (const auto in = call.in.take<fuse_forget_in>())
    session.inodes().forget(call.header.nodeid, in->nlookup);
  return 0;
}

Errno batch_forget(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_batch_forget_in>();
  for (uint32_t i = 0; in && i < in->count; i++) {
    const auto one = call.in.take<fuse_forget_one>();
    if (!one) break;  // it promised more than it sent
    session.inodes().forget(one->nodeid, one->nlookup);
  }
  return 0;
}

Errno getattr(Session& session, Session::Call& call) { return tell_attributes(session, call); }

Errno setattr(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_setattr_in>();
  if (!in) return EINVAL;
  if (const Errno error = change(session, *call.node, *in); error != 0) return error;
  return tell_attributes(session, call);
}

Errno readlink(Session&, Session::Call& call) {
  if (call.node->type != S_IFLNK) return EINVAL;
  char target[PATH_MAX];
  const ssize_t size = ::readlinkat(call.node->fd.get(), "", target, sizeof target);
  if (size < 0) return errno;
  call.out.append(target, static_cast<size_t>(size));
  return 0;
}

Errno statfs(Session&, Session::Call& call) {
  struct statfs stat {};
  if (::fstatfs(call.node->fd.get(), &stat) < 0) return errno;
  fuse_statfs_out out{};
  out.st.blocks = stat.f_blocks;
  out.st.bfree = stat.f_bfree;
  out.st.bavail = stat.f_bavail;
  out.st.files = stat.f_files;
  out.st.ffree = stat.f_ffree;
  out.st.bsize = static_cast<uint32_t>(stat.f_bsize);
  out.st.namelen = static_cast<uint32_t>(stat.f_namelen);
  out.st.frsize = static_cast<uint32_t>(stat.f_frsize);
  call.out.put(out);
  return 0;
}

Errno syncfs(Session& session, Session::Call& call) {
  if (call.node->type != S_IFDIR) return EINVAL;
  const UniqueFd directory = session.reopen(*call.node, O_RDONLY | O_DIRECTORY);
  if (!directory) return errno;
  return ::syncfs(directory.get()) < 0 ? errno : 0;
}

}  // namespace isopod::fs
