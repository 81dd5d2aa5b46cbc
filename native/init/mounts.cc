// Mounts by descriptor only: fsopen/fsconfig/fsmount or a detached clone, its attributes and its
// private/slave word set while nobody can see it, then move_mount onto an O_PATH destination. A
// path string never meets a mount call, so a destination cannot be swapped between check and use
// (CVE-2021-30465).
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr unsigned kByDescriptor = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
constexpr const char* kBaseRoot = "/root";
constexpr uint32_t kType = 0170000, kDirectory = 0040000;
constexpr int kDetach = 2;  // MNT_DETACH

bool is_directory(int fd) {
  struct statx stat {};
  return stat_fd(fd, stat) >= 0 && (stat.stx_mode & kType) == kDirectory;
}

// The destination of a mount; a missing one is made: a directory, or an empty file for what is
// none.
long destination(const char* path, bool directory, uint64_t extra) {
  const long fd = resolve(path, sys::kPath, extra);
  if (fd != -kEnoent) return fd;
  if (directory) return make_directories(path, 0755, 0, 0, extra);
  char parent[kPathMax] = "";
  char name[256];
  if (!append(parent, sizeof(parent), path)) return -kEnametoolong;
  size_t end = length(parent);
  while (end > 0 && parent[end - 1] == '/') end--;
  while (end > 0 && parent[end - 1] != '/') end--;
  parent[end] = 0;
  const long made = make_directories(end == 0 ? "/" : parent, 0755, 0, 0, extra);
  if (made < 0) return made;
  sys::close(static_cast<int>(made));
  const long directory_fd = resolve_parent(path, name);
  if (directory_fd < 0) return directory_fd;
  const long file =
      sys::openat(static_cast<int>(directory_fd), name,
                  sys::kWronly | sys::kCreat | sys::kExcl | sys::kNofollow | sys::kCloexec, 0644);
  sys::close(static_cast<int>(directory_fd));
  if (file < 0 && file != -kEexist) return file;
  if (file >= 0) sys::close(static_cast<int>(file));
  return resolve(path, sys::kPath, extra);
}

long attach(int fd, int target) { return sys::move_mount(fd, "", target, "", kByDescriptor); }

// Attributes and propagation may differ in how deep they go.
long dress(int fd, uint64_t set, uint64_t clear, bool deep, uint64_t propagation) {
  if ((set | clear) != 0) {
    if (const long error = set_attributes(fd, set, clear, 0, deep); error < 0) return error;
  }
  if (propagation == 0) return 0;
  return set_attributes(fd, 0, 0, propagation & ~sys::kMsRec, (propagation & sys::kMsRec) != 0);
}

bool has_option(uint32_t list, const char* prefix) {
  for (uint32_t i = 0; i < stub.plan.list_size(list); i++) {
    const char* option = stub.plan.list_item(list, i);
    size_t n = 0;
    while (prefix[n] != 0 && option[n] == prefix[n]) n++;
    if (prefix[n] == 0) return true;
  }
  return false;
}

// A tmpfs whose mode nobody gave takes that of the directory it covers, as runc's and crun's do.
long take_mode(int mount, int covered) {
  struct statx stat {};
  if (const long error = stat_fd(covered, stat); error < 0) return error;
  return sys::raw(SYS_fchmodat, mount, sys::word("."), stat.stx_mode & 07777u);
}

// Attaches `fd` over the base's /root and makes it "the root".
long become_root(int fd) {
  const long place = sys::openat(AT_FDCWD, kBaseRoot, sys::kPath | sys::kDirectory | sys::kCloexec);
  if (place < 0) return place;
  const long error = attach(fd, static_cast<int>(place));
  sys::close(static_cast<int>(place));
  if (error < 0) return error;
  const long root = sys::openat(AT_FDCWD, kBaseRoot, sys::kPath | sys::kDirectory | sys::kCloexec);
  if (root < 0) return root;
  set_root(static_cast<int>(root));
  return 0;
}

}  // namespace

// "key=value" or "key".
long configure(int context, const char* option) {
  char key[64];
  size_t n = 0;
  while (option[n] != 0 && option[n] != '=') {
    if (n + 1 == sizeof(key)) return -kEinval;
    key[n] = option[n];
    n++;
  }
  key[n] = 0;
  if (option[n] == 0) return sys::fsconfig(context, FSCONFIG_SET_FLAG, key, nullptr, 0);
  return sys::fsconfig(context, FSCONFIG_SET_STRING, key, option + n + 1, 0);
}

long new_filesystem(const char* type, const char* source, uint32_t options, unsigned attributes) {
  const long context = sys::fsopen(type, 1 /* FSOPEN_CLOEXEC */);
  if (context < 0) return context;
  const int fd = static_cast<int>(context);
  long result = *source == 0 ? 0 : sys::fsconfig(fd, FSCONFIG_SET_STRING, "source", source, 0);
  for (uint32_t i = 0; result >= 0 && i < stub.plan.list_size(options); i++)
    result = configure(fd, stub.plan.list_item(options, i));
  if (result >= 0) result = sys::fsconfig(fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  if (result >= 0) result = sys::fsmount(fd, 1 /* FSMOUNT_CLOEXEC */, attributes);
  sys::close(fd);
  return result;
}

long set_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool recursive) {
  mount_attr attributes{};
  attributes.attr_set = set;
  attributes.attr_clr = clear;
  attributes.propagation = propagation;
  return sys::mount_setattr(fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0u), attributes);
}

long op_attach_root(const Op& op) {
  const int fd = stub.slots[op.a];
  if (const long error = dress(fd, op.x, op.y, false, op.b); error < 0) return error;
  if (const long error = become_root(fd); error < 0) return error;
  close_fd(stub.slots[op.a]);
  return 0;
}

long op_new_root(const Op& op) {
  const long fd = new_filesystem("tmpfs", "tmpfs", op.d, 0);
  if (fd < 0) return fd;
  const long error = become_root(static_cast<int>(fd));
  sys::close(static_cast<int>(fd));
  return error;
}

long op_base_tree(const Op& op) {
  const unsigned recursive = (op.b & 1) != 0 ? unsigned{AT_RECURSIVE} : 0;
  const long fd = sys::open_tree(AT_FDCWD, stub.plan.string(op.subject),
                                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
  if (fd < 0) return fd;
  close_fd(stub.slots[op.a]);
  stub.slots[op.a] = static_cast<int>(fd);
  return 0;
}

long op_mount_new(const Op& op) {
  const char* type = stub.plan.string(op.a);
  const char* path = stub.plan.string(op.c);
  // CVE-2019-19921 and its kin: an image whose /proc is a link or a file gets no procfs somewhere
  // else.
  const bool strict = equal(type, "proc") || equal(type, "sysfs");
  if (equal(type, "cgroup")) type = "cgroup2";
  const long target = destination(path, true, strict ? uint64_t{RESOLVE_NO_SYMLINKS} : 0);
  if (target < 0) {
    if (strict && (target == -kEloop || target == -kEnotdir)) stub.why = "is not a real directory";
    return target;
  }
  if (strict && !is_directory(static_cast<int>(target))) {
    stub.why = "is not a real directory";
    return -kEnotdir;
  }
  const long fd = new_filesystem(type, stub.plan.string(op.b), op.d, static_cast<unsigned>(op.x));
  if (fd < 0) return fd;
  long error = dress(static_cast<int>(fd), 0, 0, false, op.y);
  if (error >= 0 && equal(type, "tmpfs") && !has_option(op.d, "mode="))
    error = take_mode(static_cast<int>(fd), static_cast<int>(target));
  if (error >= 0) error = attach(static_cast<int>(fd), static_cast<int>(target));
  sys::close(static_cast<int>(fd));
  close_fd(stub.covered);
  stub.covered = static_cast<int>(target);
  return error;
}

long op_mount_tree(const Op& op) {
  const int fd = stub.slots[op.a];
  if (fd < 0) return 0;  // an optional source that is not there
  const long target = destination(stub.plan.string(op.c), is_directory(fd), 0);
  if (target < 0) return target;
  long error = dress(fd, op.x, op.y, (op.b & 1) != 0, op.d);
  if (error >= 0) error = attach(fd, static_cast<int>(target));
  sys::close(static_cast<int>(target));
  close_fd(stub.slots[op.a]);
  return error;
}

long op_set_attr(const Op& op) {
  const long fd = resolve(stub.plan.string(op.c), sys::kPath);
  if (fd < 0) return fd;
  const long error = set_attributes(static_cast<int>(fd), op.x, op.y, 0, (op.b & 1) != 0);
  sys::close(static_cast<int>(fd));
  return error;
}

long op_propagate(const Op& op) {
  const long fd = resolve(stub.plan.string(op.c), sys::kPath);
  if (fd < 0) return fd;
  const long error =
      set_attributes(static_cast<int>(fd), 0, 0, op.a & ~sys::kMsRec, (op.b & 1) != 0);
  sys::close(static_cast<int>(fd));
  return error;
}

// pivot_root(".", ".") stacks the old root over the new one; detaching "." then uncovers the new
// root.
long op_pivot() {
  const long root = root_fd();
  if (root < 0) return root;
  if (const long error = sys::fchdir(static_cast<int>(root)); error < 0) return error;
  if (const long error = sys::raw(SYS_pivot_root, sys::word("."), sys::word(".")); error < 0)
    return error;
  if (const long error = sys::umount2(".", kDetach); error < 0) return error;
  if (const long error = sys::chdir("/"); error < 0) return error;
  set_root(-1);
  return 0;
}

long op_chroot(const Op& op) {
  const long fd = resolve(stub.plan.string(op.c), sys::kPath | sys::kDirectory);
  if (fd < 0) return fd;
  long error = sys::fchdir(static_cast<int>(fd));
  sys::close(static_cast<int>(fd));
  if (error >= 0) error = sys::raw(SYS_chroot, sys::word("."));
  set_root(-1);
  return error;
}

}  // namespace isopod::init
