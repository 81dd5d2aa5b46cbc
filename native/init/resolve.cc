// Names inside the container's tree. The tree is hostile: it comes from an image, and another
// container may be renaming in a shared volume while we look. So no name is ever used twice: it is
// resolved once, beneath the root, to an O_PATH descriptor, and all that follows works on the
// descriptor.
#include "init/stub.h"

namespace isopod::init {

namespace {

// openat2 reports EAGAIN when a rename or mount races with "..": the kernel asks for a retry.
constexpr int kRetries = 128;

// Ends the prefix of `path` that holds one more component than `from`; returns its length.
size_t next_component(const char* path, size_t from) {
  while (path[from] == '/') from++;
  while (path[from] != 0 && path[from] != '/') from++;
  return from;
}

}  // namespace

long root_fd() {
  if (stub.root < 0) {
    const long fd = sys::openat(AT_FDCWD, "/", sys::kPath | sys::kDirectory | sys::kCloexec);
    if (fd < 0) return fd;
    stub.root = static_cast<int>(fd);
  }
  return stub.root;
}

void set_root(int fd) {
  if (stub.root >= 0) sys::close(stub.root);
  stub.root = fd;
}

void close_fd(int& fd) {
  if (fd >= 0) sys::close(fd);
  fd = -1;
}

long stat_fd(int fd, struct statx& out) {
  return sys::raw(SYS_statx, fd, sys::word(""), AT_EMPTY_PATH, STATX_BASIC_STATS, sys::word(&out));
}

long resolve(const char* path, int flags, uint64_t extra, unsigned mode) {
  const long root = root_fd();
  if (root < 0) return root;
  open_how how{};
  how.flags = static_cast<uint64_t>(flags | sys::kCloexec);
  how.mode = mode;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | extra;
  long fd = -kEagain;
  for (int i = 0; i < kRetries && fd == -kEagain; i++)
    fd = sys::openat2(static_cast<int>(root), path, how);
  return fd;
}

long make_directories(const char* path, unsigned mode, uint32_t uid, uint32_t gid, uint64_t extra) {
  const int flags = sys::kPath | sys::kDirectory;
  long fd = resolve(path, flags, extra);
  if (fd != -kEnoent) return fd;
  char prefix[kPathMax] = "";
  if (!append(prefix, sizeof(prefix), path)) return -kEnametoolong;
  // Prefix by prefix from the root, not component by component from the last directory: ".." and
  // links must mean what they mean to the container.
  long parent = resolve("/", flags, extra);
  for (size_t end = next_component(path, 0), start = 0; parent >= 0;
       start = end, end = next_component(path, end)) {
    while (path[start] == '/') start++;
    if (start >= end) return parent;
    prefix[end] = 0;
    fd = resolve(prefix, flags, extra);
    if (fd == -kEnoent) {
      const long made =
          sys::raw(SYS_mkdirat, parent, sys::word(prefix + start), static_cast<long>(mode));
      if (made < 0 && made != -kEexist)
        fd = made;
      else
        fd = resolve(prefix, flags, extra);  // still ENOENT: a dangling link, which we do not fill
      if (made >= 0 && fd >= 0 && (uid != 0 || gid != 0)) {
        const long owned = sys::raw(SYS_fchownat, fd, sys::word(""), static_cast<long>(uid),
                                    static_cast<long>(gid), AT_EMPTY_PATH);
        if (owned < 0) fd = owned;
      }
    }
    sys::close(static_cast<int>(parent));
    prefix[end] = path[end];
    parent = fd;
  }
  return parent;
}

long resolve_parent(const char* path, char (&name)[256]) {
  size_t end = length(path);
  while (end > 0 && path[end - 1] == '/') end--;
  size_t start = end;
  while (start > 0 && path[start - 1] != '/') start--;
  if (end - start >= sizeof(name) || start >= kPathMax) return -kEnametoolong;
  for (size_t i = start; i < end; i++) name[i - start] = path[i];
  name[end - start] = 0;
  if (name[0] == 0 || equal(name, ".") || equal(name, "..")) return -kEinval;
  char directory[kPathMax];
  for (size_t i = 0; i < start; i++) directory[i] = path[i];
  directory[start] = 0;
  return resolve(start == 0 ? "/" : directory, sys::kPath | sys::kDirectory);
}

}  // namespace isopod::init
