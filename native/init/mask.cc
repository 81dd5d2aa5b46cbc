// Masked and read-only paths. Both work on the O_PATH descriptor of what the path is *now*; what
// covers a file is the host's /dev/null, opened before the container's tree was in sight
// (CVE-2025-31133).
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr uint32_t kType = 0170000, kDirectory = 0040000;
constexpr unsigned kByDescriptor = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;

bool absent(long error) { return error == -kEnoent || error == -kEnotdir; }

// Covers `target` with `source`: the first time by the detached mount itself, later by clones of
// it, which the kernel allows once it is attached in our namespace.
long cover(int source, bool attached, int target) {
  if (!attached) return sys::move_mount(source, "", target, "", kByDescriptor);
  const long clone =
      sys::open_tree(source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
  if (clone < 0) return clone;
  const long error = sys::move_mount(static_cast<int>(clone), "", target, "", kByDescriptor);
  sys::close(static_cast<int>(clone));
  return error;
}

// An empty tmpfs in which nothing can be made; one superblock for all masks.
long empty_directory() {
  constexpr unsigned kAttributes =
      MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const long context = sys::fsopen("tmpfs", 1 /* FSOPEN_CLOEXEC */);
  if (context < 0) return context;
  const int fd = static_cast<int>(context);
  long result = configure(fd, "source=tmpfs");
  if (result >= 0) result = configure(fd, "nr_blocks=1");
  if (result >= 0) result = configure(fd, "nr_inodes=2");
  if (result >= 0) result = configure(fd, "ro");
  if (result >= 0) result = sys::fsconfig(fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  if (result >= 0) result = sys::fsmount(fd, 1 /* FSMOUNT_CLOEXEC */, kAttributes);
  sys::close(fd);
  return result;
}

long mask_directory(int target) {
  const bool attached = stub.masked >= 0;
  if (!attached) {
    const long fd = empty_directory();
    if (fd < 0) return fd;
    stub.masked = static_cast<int>(fd);
  }
  return cover(stub.masked, attached, target);
}

}  // namespace

long op_mask(const Op& op) {
  const long target = resolve(stub.plan.string(op.c), sys::kPath);
  if (target < 0) return absent(target) ? 0 : target;
  struct statx stat {};
  long error = stat_fd(static_cast<int>(target), stat);
  if (error >= 0) {
    if ((stat.stx_mode & kType) == kDirectory) {
      error = mask_directory(static_cast<int>(target));
    } else {
      error = cover(stub.slots[op.a], stub.mask_slot == op.a, static_cast<int>(target));
      if (error >= 0) stub.mask_slot = op.a;
    }
  }
  sys::close(static_cast<int>(target));
  return error < 0 ? error : 0;
}

// nosuid, nodev and noexec of the mount below stay: only read-only is added.
long op_readonly(const Op& op) {
  const long target = resolve(stub.plan.string(op.c), sys::kPath);
  if (target < 0) return absent(target) ? 0 : target;
  const int fd = static_cast<int>(target);
  const long clone = sys::open_tree(
      fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | unsigned{AT_RECURSIVE});
  long error = clone;
  if (clone >= 0) {
    error = set_attributes(static_cast<int>(clone), MOUNT_ATTR_RDONLY, 0, 0, true);
    if (error >= 0) error = sys::move_mount(static_cast<int>(clone), "", fd, "", kByDescriptor);
    sys::close(static_cast<int>(clone));
  }
  sys::close(fd);
  return error < 0 ? error : 0;
}

}  // namespace isopod::init
