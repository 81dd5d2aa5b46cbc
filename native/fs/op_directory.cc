// Directories. The offset of an entry is the host's own (d_off): an opaque number to the guest, and
// a wrong one harms nobody but the guest.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fs/session.h"

namespace isopod::fs {

namespace {

constexpr size_t kBuffer = 16384;
constexpr size_t kNameMax = 255;

// struct linux_dirent64, which glibc does not declare.
struct HostEntry {
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[];
};

bool is_dots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

size_t aligned(size_t size) { return (size + 7) & ~size_t{7}; }

void put_entry(Reply& out, const HostEntry& entry, size_t length) {
  fuse_dirent to{};
  to.ino = entry.inode;
  to.off = static_cast<uint64_t>(entry.offset);
  to.namelen = static_cast<uint32_t>(length);
  to.type = entry.type;
  out.append(&to, offsetof(fuse_dirent, name));
  out.append(entry.name, length);
  out.pad();
}

// With what a LOOKUP would say. "." and ".." are not looked up (nodeid 0 says so), nor is what went
// away meanwhile or finds no room in the table: the guest will ask.
void put_entry_plus(Session& session, const Inode& parent, Reply& out, const HostEntry& entry,
                    size_t length) {
  fuse_entry_out looked{};
  if (!is_dots(entry.name) && session.enter(parent, entry.name, looked) != 0) looked = {};
  out.put(looked);
  put_entry(out, entry, length);
}

// Fills `out` up to `size` bytes. False: the reply is full.
bool put_all(Session& session, Session::Call& call, const char* buffer, size_t bytes, size_t size,
             bool plus) {
  for (size_t at = 0; at < bytes;) {
    const auto* entry = reinterpret_cast<const HostEntry*>(buffer + at);
    at += entry->size;
    const size_t length = strnlen(entry->name, kNameMax);
    const size_t needed =
        (plus ? sizeof(fuse_entry_out) : 0) + aligned(offsetof(fuse_dirent, name) + length);
    if (call.out.size() + needed > size) return false;
    if (plus)
      put_entry_plus(session, *call.node, call.out, *entry, length);
    else
      put_entry(call.out, *entry, length);
  }
  return true;
}

Errno read_entries(Session& session, Session::Call& call, bool plus) {
  const auto in = call.in.take<fuse_read_in>();
  if (!in) return EINVAL;
  const auto handle = session.directory(in->fh);
  if (!handle) return EBADF;
  const size_t size = std::min<size_t>(in->size, call.out.room());
  std::lock_guard<std::mutex> lock(handle->position);
  if (lseek(handle->fd.get(), static_cast<off_t>(in->offset), SEEK_SET) < 0) return errno;
  alignas(HostEntry) char buffer[kBuffer];
  for (;;) {
    // Not much more than fits: what is read and not passed on is read again.
    const size_t want = std::min(sizeof buffer, std::max<size_t>(size - call.out.size(), 512));
    const long bytes = syscall(SYS_getdents64, handle->fd.get(), buffer, want);
    if (bytes < 0) return call.out.size() > 0 ? 0 : errno;
    if (bytes == 0) return 0;
    if (!put_all(session, call, buffer, static_cast<size_t>(bytes), size, plus)) {
      // Not even one entry: a buffer that small is an error, an empty reply would mean the end.
      return call.out.size() > 0 ? 0 : EINVAL;
    }
  }
}

}  // namespace

Errno opendir(Session& session, Session::Call& call) {
  if (call.node->type != S_IFDIR) return ENOTDIR;
  UniqueFd directory = session.reopen(*call.node, O_RDONLY | O_DIRECTORY);
  if (!directory) return errno == EMFILE ? ENFILE : errno;
  fuse_open_out out{};
  out.fh = session.keep(std::move(directory));
  if (out.fh == 0) return ENFILE;
  if (call.node->exclusive) out.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
  call.out.put(out);
  return 0;
}

Errno readdir(Session& session, Session::Call& call) { return read_entries(session, call, false); }
Errno readdirplus(Session& session, Session::Call& call) {
  return read_entries(session, call, true);
}

Errno releasedir(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_release_in>();
  if (!in) return EINVAL;
  session.drop(in->fh);
  return 0;
}

Errno fsyncdir(Session& session, Session::Call& call) {
  const auto in = call.in.take<fuse_fsync_in>();
  if (!in) return EINVAL;
  const auto handle = session.directory(in->fh);
  if (!handle) return EBADF;
  const bool data_only = (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
  const int result = data_only ? fdatasync(handle->fd.get()) : fsync(handle->fd.get());
  return result < 0 ? errno : 0;
}

}  // namespace isopod::fs
