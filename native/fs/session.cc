#include "fs/session.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "vmm/virtio/fs_protocol.h"

namespace isopod::fs {

namespace {

// A year's worth would do as well: nobody but the guest changes these.
constexpr uint64_t kExclusiveSeconds = 86400;
constexpr uint64_t kSharedSeconds = 1;

constexpr uint32_t kOldestMinor = 31;
constexpr uint32_t kMaxWrite = 1 << 20;
constexpr uint16_t kMaxPages = kMaxWrite / 4096;
// No WRITEBACK_CACHE: the host writes too, and a guest that believes its own sizes would lose that.
constexpr uint32_t kWanted = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |
                             FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                             FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_SUBMOUNTS |
                             FUSE_HANDLE_KILLPRIV_V2;

struct Operation {
  uint32_t opcode;
  Handler handler;
};

// What is missing is ENOSYS. The guest remembers that for good, so the answer never depends on the
// request: ACCESS (the guest's kernel judges by mode then), locks (local to the guest), IOCTL,
// POLL, TMPFILE.
constexpr Operation kOperations[] = {
    {FUSE_LOOKUP, lookup},
    {FUSE_FORGET, forget},
    {FUSE_BATCH_FORGET, batch_forget},
    {FUSE_GETATTR, getattr},
    {FUSE_SETATTR, setattr},
    {FUSE_READLINK, readlink},
    {FUSE_STATFS, statfs},
    {FUSE_SYNCFS, syncfs},
    {FUSE_SYMLINK, symlink},
    {FUSE_MKNOD, mknod},
    {FUSE_MKDIR, mkdir},
    {FUSE_UNLINK, unlink},
    {FUSE_RMDIR, rmdir},
    {FUSE_RENAME, rename},
    {FUSE_RENAME2, rename2},
    {FUSE_LINK, link},
    {FUSE_OPEN, open},
    {FUSE_CREATE, create},
    {FUSE_OPENDIR, opendir},
    {FUSE_READDIR, readdir},
    {FUSE_READDIRPLUS, readdirplus},
    {FUSE_RELEASEDIR, releasedir},
    {FUSE_FSYNCDIR, fsyncdir},
    {FUSE_SETXATTR, setxattr},
    {FUSE_GETXATTR, getxattr},
    {FUSE_LISTXATTR, listxattr},
    {FUSE_REMOVEXATTR, removexattr},
};

bool forgets(uint32_t opcode) { return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET; }

}  // namespace

bool valid_name(const char* name) {
  if (name[0] == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
  return strchr(name, '/') == nullptr;
}

uint64_t entry_lifetime(const Inode& inode) {
  return inode.exclusive ? kExclusiveSeconds : kSharedSeconds;
}

Session::Session(UniqueFd root, Options options)
    : options_(std::move(options)),
      inodes_(std::move(root), options_.max_inodes, options_.exclusive) {}

Errno Session::handle(const fuse_in_header& header, Arguments arguments, Reply& reply) {
  reply.silent = forgets(header.opcode);
  if (header.opcode == FUSE_INIT || header.opcode == FUSE_DESTROY) {
    std::unique_lock<std::shared_mutex> alone(session_);
    Call call{header, arguments, reply, nullptr};
    return header.opcode == FUSE_INIT ? init(call) : destroy(call);
  }
  const auto* operation =
      std::find_if(std::begin(kOperations), std::end(kOperations),
                   [&](const Operation& each) { return each.opcode == header.opcode; });
  if (operation == std::end(kOperations)) return ENOSYS;
  std::shared_lock<std::shared_mutex> together(session_);
  Call call{header, arguments, reply, inodes_.find(header.nodeid)};
  // The guest was never told of it, or has told us to forget it.
  if (!call.node && !forgets(header.opcode)) return ESTALE;
  const Errno error = operation->handler(*this, call);
  return error == 0 && reply.overflown() ? E2BIG : error;
}

Errno Session::init(Call& call) {
  // Without the part of 7.36, which older guests do not send.
  struct Asked {
    uint32_t major, minor, max_readahead, flags;
  };
  const auto asked = call.in.take<Asked>();
  if (!asked) return EINVAL;
  if (asked->major != FUSE_KERNEL_VERSION || asked->minor < kOldestMinor) return EPROTO;
  forget_all();
  fuse_init_out answer{};
  answer.major = FUSE_KERNEL_VERSION;
  answer.minor = std::min<uint32_t>(asked->minor, FUSE_KERNEL_MINOR_VERSION);
  answer.max_readahead = std::min(asked->max_readahead, kMaxWrite);
  answer.flags = asked->flags & kWanted;
  answer.max_background = 64;
  answer.congestion_threshold = 48;
  answer.max_write = kMaxWrite;
  answer.time_gran = 1;
  answer.max_pages = kMaxPages;
  submounts_ = (answer.flags & FUSE_SUBMOUNTS) != 0;
  call.out.put(answer);
  return 0;
}

Errno Session::destroy(Call&) {
  forget_all();
  return 0;
}

void Session::forget_all() {
  inodes_.clear();
  std::lock_guard<std::mutex> lock(handles_mutex_);
  handles_.clear();
}

UniqueFd Session::reopen(const Inode& inode, int flags) const {
  char name[16];
  snprintf(name, sizeof name, "%d", inode.fd.get());
  return UniqueFd(::openat(options_.proc_fd, name, flags | O_CLOEXEC));
}

Errno Session::enter(const Inode& parent, const char* name, fuse_entry_out& entry,
                     InodeRef* found) {
  UniqueFd fd(::openat(parent.fd.get(), name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  // Our own limit, not the guest's file system's.
  if (!fd) return errno == EMFILE ? ENFILE : errno;
  return enter_fd(parent, name, std::move(fd), entry, found);
}

Errno Session::enter_fd(const Inode& parent, const char* name, UniqueFd fd, fuse_entry_out& entry,
                        InodeRef* found) {
  struct statx stat {};
  if (const int error = stat_of(fd.get(), stat); error != 0) return error;
  const InodeRef inode = inodes_.remember(parent, name, std::move(fd), stat);
  if (!inode) return ENFILE;
  entry = {};
  entry.nodeid = inode->id;
  entry.entry_valid = entry.attr_valid = entry_lifetime(*inode);
  entry.attr = attributes(*inode, stat, parent.mount);
  if (found != nullptr) *found = inode;
  return 0;
}

fuse_attr Session::attributes(const Inode& inode, const struct statx& stat,
                              uint64_t parent_mount) const {
  fuse_attr attr{};
  attr.ino = stat.stx_ino;
  attr.size = stat.stx_size;
  attr.blocks = stat.stx_blocks;
  attr.atime = static_cast<uint64_t>(stat.stx_atime.tv_sec);
  attr.mtime = static_cast<uint64_t>(stat.stx_mtime.tv_sec);
  attr.ctime = static_cast<uint64_t>(stat.stx_ctime.tv_sec);
  attr.atimensec = stat.stx_atime.tv_nsec;
  attr.mtimensec = stat.stx_mtime.tv_nsec;
  attr.ctimensec = stat.stx_ctime.tv_nsec;
  attr.mode = stat.stx_mode;
  attr.nlink = stat.stx_nlink;
  attr.uid = stat.stx_uid;
  attr.gid = stat.stx_gid;
  attr.rdev = static_cast<uint32_t>(makedev(stat.stx_rdev_major, stat.stx_rdev_minor));
  attr.blksize = stat.stx_blksize;
  // Another mount of ours: the guest gives it a device number of its own, or equal inode numbers of
  // two file systems would be one file to find(1) and tar(1).
  if (submounts_ && inode.type == S_IFDIR && inode.mount != parent_mount)
    attr.flags |= FUSE_ATTR_SUBMOUNT;
  return attr;
}

std::shared_ptr<DirectoryHandle> Session::directory(uint64_t handle) const {
  std::lock_guard<std::mutex> lock(handles_mutex_);
  const auto found = handles_.find(handle);
  return found == handles_.end() ? nullptr : found->second;
}

uint64_t Session::keep(UniqueFd directory) {
  auto handle = std::make_shared<DirectoryHandle>();
  handle->fd = std::move(directory);
  std::lock_guard<std::mutex> lock(handles_mutex_);
  if (handles_.size() >= options_.max_handles) return 0;
  handles_[next_handle_] = std::move(handle);
  return next_handle_++;
}

void Session::drop(uint64_t handle) {
  std::lock_guard<std::mutex> lock(handles_mutex_);
  handles_.erase(handle);
}

}  // namespace isopod::fs
