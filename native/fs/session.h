// One guest's view of one tree: takes a FUSE request, gives the reply.
//
// What is not here is the monitor's: READ, WRITE and the like run on descriptors that OPEN handed
// out (vmm/virtio/fs_protocol.h). Handlers are one function per opcode, in op_*.cc; the table is in
// session.cc.
#pragma once

#include <linux/fuse.h>

#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "fs/inodes.h"
#include "fs/message.h"

namespace isopod::fs {

struct Options {
  // O_PATH descriptor of a /proc/self/fd directory; every thread that calls handle() has it as its
  // cwd.
  int proc_fd = -1;
  size_t max_inodes = 0;
  size_t max_handles = 0;
  std::string exclusive;  // see Inodes
};

struct DirectoryHandle {
  UniqueFd fd;
  std::mutex position;  // of the open directory: one reader at a time
};

class Session {
 public:
  Session(UniqueFd root, Options options);

  // Performs one request. `reply` holds the data; the result is 0 or an errno for its header.
  // Callable from several threads; each has left CLONE_FS sharing and has its cwd in /proc/self/fd.
  Errno handle(const fuse_in_header& header, Arguments arguments, Reply& reply);

  // --- what the handlers need ---
  struct Call {
    const fuse_in_header& header;
    Arguments& in;
    Reply& out;
    InodeRef node;  // of header.nodeid
  };
  Inodes& inodes() { return inodes_; }
  bool submounts() const { return submounts_; }
  // Opens the file itself anew, with other flags: never by its name.
  UniqueFd reopen(const Inode& inode, int flags) const;
  // A child by name, counted; fills the entry's reply.
  Errno enter(const Inode& parent, const char* name, fuse_entry_out& entry,
              InodeRef* found = nullptr);
  // The same for what a descriptor (O_PATH) says.
  Errno enter_fd(const Inode& parent, const char* name, UniqueFd fd, fuse_entry_out& entry,
                 InodeRef* found = nullptr);
  fuse_attr attributes(const Inode& inode, const struct statx& stat, uint64_t parent_mount) const;

  Errno init(Call& call);
  Errno destroy(Call& call);
  std::shared_ptr<DirectoryHandle> directory(uint64_t handle) const;
  // 0: too many.
  uint64_t keep(UniqueFd directory);
  void drop(uint64_t handle);

 private:
  void forget_all();

  const Options options_;
  Inodes inodes_;
  bool submounts_ = false;
  std::shared_mutex session_;  // INIT and DESTROY alone, everything else together
  mutable std::mutex handles_mutex_;
  std::map<uint64_t, std::shared_ptr<DirectoryHandle>> handles_;
  uint64_t next_handle_ = 1;
};

using Handler = Errno (*)(Session&, Session::Call&);

// A component of a path, and nothing that could lead anywhere else.
bool valid_name(const char* name);
// How long the guest may believe what it was told, in seconds.
uint64_t entry_lifetime(const Inode& inode);

// op_lookup.cc
Errno lookup(Session&, Session::Call&);
Errno forget(Session&, Session::Call&);
Errno batch_forget(Session&, Session::Call&);
Errno getattr(Session&, Session::Call&);
Errno setattr(Session&, Session::Call&);
Errno readlink(Session&, Session::Call&);
Errno statfs(Session&, Session::Call&);
Errno syncfs(Session&, Session::Call&);
// op_make.cc
Errno symlink(Session&, Session::Call&);
Errno mknod(Session&, Session::Call&);
Errno mkdir(Session&, Session::Call&);
Errno unlink(Session&, Session::Call&);
Errno rmdir(Session&, Session::Call&);
Errno rename(Session&, Session::Call&);
Errno rename2(Session&, Session::Call&);
Errno link(Session&, Session::Call&);
// op_open.cc
Errno open(Session&, Session::Call&);
Errno create(Session&, Session::Call&);
// op_directory.cc
Errno opendir(Session&, Session::Call&);
Errno readdir(Session&, Session::Call&);
Errno readdirplus(Session&, Session::Call&);
Errno releasedir(Session&, Session::Call&);
Errno fsyncdir(Session&, Session::Call&);
// op_xattr.cc
Errno setxattr(Session&, Session::Call&);
Errno getxattr(Session&, Session::Call&);
Errno listxattr(Session&, Session::Call&);
Errno removexattr(Session&, Session::Call&);

}  // namespace isopod::fs
