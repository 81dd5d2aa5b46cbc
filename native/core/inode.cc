#include "core/inode.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/fd.h"
#include "core/layers.h"
#include "core/unpack.h"

namespace isopod::core {
namespace {

constexpr char kTrusted[] = "trusted.";
constexpr mode_t kPermissions = 07777;

struct timespec timespec_of(int64_t time) {
  struct timespec result = {time / 1'000'000'000, time % 1'000'000'000};
  if (result.tv_nsec < 0) {
    result.tv_nsec += 1'000'000'000;
    result.tv_sec--;
  }
  return result;
}

std::string proc_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// Attributes of `from` onto `to`; both are paths that end in a link through /proc/self/fd, so that
// the l* calls, which follow no link in the last component, reach a symlink too.
Status copy_xattrs(const std::string& from, const std::string& to, bool follow) {
  auto list = follow ? listxattr : llistxattr;
  auto get = follow ? getxattr : lgetxattr;
  auto set = follow ? setxattr : lsetxattr;
  std::vector<char> names(64 * 1024);  // XATTR_LIST_MAX
  const ssize_t size = list(from.c_str(), names.data(), names.size());
  if (size < 0 && errno == EOPNOTSUPP) return Done{};
  if (size < 0) return failure(errno, "list attributes", from);
  std::vector<char> value(64 * 1024);  // XATTR_SIZE_MAX
  for (const char* name = names.data(); name < names.data() + size; name += strlen(name) + 1) {
    if (strncmp(name, kTrusted, sizeof(kTrusted) - 1) == 0) continue;
    const ssize_t length = get(from.c_str(), name, value.data(), value.size());
    if (length < 0) return failure(errno, "read attribute", name);
    if (set(to.c_str(), name, value.data(), static_cast<size_t>(length), 0) != 0) {
      return failure(errno, "set attribute", name);
    }
  }
  return Done{};
}

Error bad_attribute(const UnpackEntry& entry, const std::string& name, int err) {
  return Error{err, "set attribute", name, entry.path, {}};
}

Status check_attributes(const UnpackEntry& entry) {
  for (const auto& [name, value] : entry.xattrs) {
    if (name.rfind(kTrusted, 0) == 0) {
      return Error{EINVAL, "unpack", entry.path, {},
                   "extended attribute \"" + name + "\" is refused: trusted.* is the host's own"};
    }
  }
  return Done{};
}

Result<uint64_t> copy_content(int from, off_t size, int to, const std::string& name) {
  if (ioctl(to, FICLONE, from) == 0) return static_cast<uint64_t>(size);
  uint64_t copied = 0;
  for (;;) {
    const ssize_t got = sendfile(to, from, nullptr, 1 << 24);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(errno, "copy up", name);
    if (got == 0) return copied;
    copied += static_cast<uint64_t>(got);
  }
}

}  // namespace

Status set_inode(int fd, const UnpackEntry& entry) {
  if (auto fine = check_attributes(entry); !fine) return fine;
  if (fchown(fd, entry.uid, entry.gid) != 0) return failure(errno, "chown", entry.path);
  if (fchmod(fd, entry.mode & kPermissions) != 0) return failure(errno, "chmod", entry.path);
  for (const auto& [name, value] : entry.xattrs) {
    if (fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0) {
      return bad_attribute(entry, name, errno);
    }
  }
  return Done{};
}

Status set_node(int dir, const std::string& name, const UnpackEntry& entry) {
  if (auto fine = check_attributes(entry); !fine) return fine;
  if (fchownat(dir, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return failure(errno, "chown", entry.path);
  }
  if (entry.type != UnpackEntry::kSymlink &&
      fchmodat(dir, name.c_str(), entry.mode & kPermissions, 0) != 0) {
    return failure(errno, "chmod", entry.path);
  }
  const std::string path = proc_path(dir) + "/" + name;
  for (const auto& [key, value] : entry.xattrs) {
    if (lsetxattr(path.c_str(), key.c_str(), value.data(), value.size(), 0) != 0) {
      return bad_attribute(entry, key, errno);
    }
  }
  const struct timespec time = timespec_of(entry.mtime);
  const struct timespec times[2] = {time, time};
  if (utimensat(dir, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return failure(errno, "set times", entry.path);
  }
  return Done{};
}

Status set_times(int fd, int64_t time, const std::string& path) {
  const struct timespec at = timespec_of(time);
  const struct timespec times[2] = {at, at};
  if (futimens(fd, times) != 0) return failure(errno, "set times", path);
  return Done{};
}

Status copy_inode(int from, const struct stat& st, int to) {
  if (fchown(to, st.st_uid, st.st_gid) != 0) return failure(errno, "chown", "/");
  if (fchmod(to, st.st_mode & kPermissions) != 0) return failure(errno, "chmod", "/");
  return copy_xattrs(proc_path(from), proc_path(to), true);
}

Result<uint64_t> copy_node(int from, const std::string& name, const struct stat& st, int to) {
  UnpackEntry entry;
  entry.path = name;
  entry.mode = st.st_mode & kPermissions;
  entry.uid = st.st_uid;
  entry.gid = st.st_gid;
  entry.mtime = nanoseconds(st.st_mtim);
  if (S_ISREG(st.st_mode)) {
    UniqueFd source(openat(from, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME));
    if (!source) return failure(errno, "open", name);
    UniqueFd copy(
        openat(to, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!copy) return failure(errno, "create", name);
    auto bytes = copy_content(source.get(), st.st_size, copy.get(), name);
    if (!bytes) return bytes;
    if (auto done = copy_inode(source.get(), st, copy.get()); !done) return std::move(done.error());
    if (auto done = set_times(copy.get(), entry.mtime, name); !done) return std::move(done.error());
    return bytes;
  }
  if (S_ISLNK(st.st_mode)) {
    entry.type = UnpackEntry::kSymlink;
    auto target = read_link(from, name);
    if (!target) return std::move(target.error());
    if (symlinkat(target->c_str(), to, name.c_str()) != 0) return failure(errno, "create", name);
  } else {
    entry.type = UnpackEntry::kFifo;
    if (mknodat(to, name.c_str(), st.st_mode, st.st_rdev) != 0) {
      return failure(errno, "create", name);
    }
  }
  auto copied =
      copy_xattrs(proc_path(from) + "/" + name, proc_path(to) + "/" + name, false);
  if (!copied) return std::move(copied.error());
  if (auto done = set_node(to, name, entry); !done) return std::move(done.error());
  return uint64_t{0};
}

}  // namespace isopod::core
