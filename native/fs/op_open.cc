// Regular files: the descriptor goes to the monitor, which reads and writes it by itself.
#include <fcntl.h>
#include <sys/stat.h>

#include "fs/caller.h"
#include "fs/session.h"

namespace isopod::fs {

namespace {

// Of the guest's open flags those that mean something on our side. O_DIRECT would ask for aligned
// buffers, and the monitor has the guest's; what is to be made, or followed, is decided elsewhere.
int open_flags(uint32_t wanted) {
  constexpr uint32_t kKept = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC | O_NOATIME;
  return static_cast<int>(wanted & kKept);
}

Errno open_regular(Session& session, const Inode& inode, uint32_t flags, bool kill, Reply& out) {
  // The guest's kernel serves FIFOs, sockets and devices by itself: an open of ours could block, or
  // act.
  if (inode.type != S_IFREG) return inode.type == S_IFDIR ? EISDIR : EINVAL;
  const WithoutFsetid without(kill && (flags & O_TRUNC) != 0);
  out.file = session.reopen(inode, open_flags(flags));
  return out.file ? 0 : errno;
}

fuse_open_out answer(const Inode& inode) {
  fuse_open_out out{};
  // Nobody else changes it: what the guest has read before is still right.
  if (inode.exclusive) out.open_flags |= FOPEN_KEEP_CACHE;
  return out;
}

}  // namespace

Errno open(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_open_in>();
  if (!in) return EINVAL;
  const bool kill = (in->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
  const Errno error = open_regular(session, *call.node, in->flags, kill, call.out);
  if (error != 0) return error;
  call.out.put(answer(*call.node));
  return 0;
}

// The guest asks for CREATE when it believes that the name is free; the host may have taken it
// meanwhile. So it is made with O_EXCL, and only if that fails looked up: an existing FIFO is never
// opened, a link never followed.
Errno create(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_create_in>();
  const auto name = call.in.text();
  if (!in || !name || !valid_name(*name)) return EINVAL;
  const Inode& parent = *call.node;
  if (parent.type != S_IFDIR) return ENOTDIR;
  UniqueFd made;
  {
    const AsCaller caller(call.header.uid, call.header.gid);
    if (caller.error() != 0) return caller.error();
    const int flags =
        (open_flags(in->flags) & ~O_TRUNC) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    made.reset(::openat(parent.fd.get(), *name, flags, in->mode & 07777));
    if (!made && (errno != EEXIST || (in->flags & O_EXCL) != 0))
      return errno == EMFILE ? ENFILE : errno;
  }
  fuse_entry_out entry;
  InodeRef inode;
  Errno error = 0;
  if (made) {
    // By the descriptor that made it, not by the name: the name may mean something else by now.
    Inode fresh;
    fresh.fd = std::move(made);
    UniqueFd path = session.reopen(fresh, O_PATH);
    error = path ? session.enter_fd(parent, *name, std::move(path), entry, &inode) : errno;
    call.out.file = std::move(fresh.fd);
  } else {
    error = session.enter(parent, *name, entry, &inode);
    if (error == 0) {
      const bool kill = (in->open_flags & FUSE_OPEN_KILL_SUIDGID) != 0;
      error = open_regular(session, *inode, in->flags, kill, call.out);
      if (error != 0) session.inodes().forget(inode->id, 1);
    }
  }
  if (error != 0) {
    call.out.file.reset();
    return error;
  }
  call.out.put(entry);
  call.out.put(answer(*inode));
  return 0;
}

}  // namespace isopod::fs
