// Phase 1: whatever the plan names by a path of the host becomes a descriptor, in the host's own
// mount namespace (R8). Nothing after this phase sees a host path.
#include "init/stub.h"

namespace isopod::init {

namespace {

constexpr unsigned kAtRecursive = AT_RECURSIVE;
constexpr long kNsfsMagic = 0x6e736673;
constexpr unsigned long kNsGetNstype = 0xb703;  // _IO(0xb7, 0x3)
constexpr uint32_t kKeepOwner = 0xffffffff;
constexpr size_t kValueMax = 255;  // fsconfig(2) copies at most this much of a string

struct Statfs {
  long type;
  long rest[15];
};

long open_tree(const Open& open) {
  const unsigned recursive = (open.flags & 1) != 0 ? kAtRecursive : 0;
  const long fd = sys::open_tree(AT_FDCWD, stub.plan.string(open.path),
                                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
  return fd == -kEnoent && (open.flags & 2) != 0 ? kOptionalAbsent : fd;
}

long open_namespace(const Open& open) {
  const long fd = sys::openat(AT_FDCWD, stub.plan.string(open.path), sys::kRdonly | sys::kCloexec);
  if (fd < 0) return fd;
  Statfs fs{};
  const long got = sys::raw(SYS_fstatfs, fd, sys::word(&fs));
  if (got < 0 || fs.type != kNsfsMagic ||
      sys::ioctl(static_cast<int>(fd), kNsGetNstype, 0L) != static_cast<long>(open.a)) {
    stub.why = "not a namespace of the type asked for";
    return -kEinval;
  }
  return fd;
}

long open_file(const Open& open) {
  const long fd = sys::openat(AT_FDCWD, stub.plan.string(open.path),
                              static_cast<int>(open.flags) | sys::kCloexec);
  if (fd < 0 || (open.a == kKeepOwner && open.b == kKeepOwner)) return fd;
  const long error = sys::raw(SYS_fchown, fd, static_cast<long>(open.a), static_cast<long>(open.b));
  return error < 0 ? error : fd;
}

// A detached clone of the node: an O_PATH descriptor could not be mounted from another mount
// namespace.
long open_device(const Open& open) {
  const long fd = sys::openat(AT_FDCWD, stub.plan.string(open.path), sys::kPath | sys::kCloexec);
  if (fd < 0) return fd;
  struct statx stat {};
  if (const long error = stat_fd(static_cast<int>(fd), stat); error < 0) return error;
  if ((stat.stx_mode & 0170000u) != open.flags || stat.stx_rdev_major != open.a ||
      stat.stx_rdev_minor != open.b) {
    stub.why = "not the device asked for";
    return -kEinval;
  }
  const long clone =
      sys::open_tree(static_cast<int>(fd), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
  sys::close(static_cast<int>(fd));
  return clone;
}

// --- overlay ---

bool starts(const char* text, const char* prefix) {
  for (size_t i = 0; prefix[i] != 0; i++)
    if (text[i] != prefix[i]) return false;
  return true;
}

const char* value_of(const char* option) {
  size_t i = 0;
  while (option[i] != 0 && option[i] != '=') i++;
  return option[i] == 0 ? "" : option + i + 1;
}

// Hands lowerdir over layer by layer, top first (Linux 6.7): each has fsconfig's 255 bytes to
// itself. "\:" inside a layer's name stays with it: only an unescaped colon separates.
long append_lower(int context, const char* layers) {
  while (*layers != 0) {
    char one[kValueMax + 1];
    size_t n = 0;
    for (; *layers != 0 && *layers != ':'; layers++) {
      if (*layers == '\\' && layers[1] != 0) layers++;
      if (n == kValueMax) return -kE2big;
      one[n++] = *layers;
    }
    one[n] = 0;
    if (*layers == ':') layers++;
    if (const long error = sys::fsconfig(context, FSCONFIG_SET_STRING, "lowerdir+", one, 0);
        error < 0)
      return error;
  }
  return 0;
}

// -E2BIG or -EINVAL: this kernel or these values need mount(2).
long overlay_by_fsconfig(const Open& open) {
  const long context = sys::fsopen("overlay", 1 /* FSOPEN_CLOEXEC */);
  if (context < 0) return context;
  const int fd = static_cast<int>(context);
  for (uint32_t i = 0; i < stub.plan.list_size(open.list); i++) {
    const char* option = stub.plan.list_item(open.list, i);
    const char* value = value_of(option);
    long error;
    if (length(value) <= kValueMax)
      error = configure(fd, option);
    else if (starts(option, "lowerdir=") && (stub.plan.header().flags & plan::kFloor) == 0)
      error = append_lower(fd, value);
    else
      error = -kE2big;
    if (error < 0) return sys::close(fd), error;
  }
  long error = sys::fsconfig(fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
  if (error >= 0) error = sys::fsmount(fd, 1 /* FSMOUNT_CLOEXEC */, open.flags);
  sys::close(fd);
  return error;
}

// One page of options, by the old call, which needs a place to mount on: a throw-away copy of the
// host's namespace, left again at once. There the detached clone is taken.
long overlay_by_mount(const Open& open) {
  constexpr size_t kPage = 4096;
  auto* data = static_cast<char*>(pages(kPage));
  if (data == nullptr) return -kEnomem;
  for (uint32_t i = 0; i < stub.plan.list_size(open.list); i++) {
    const bool fits = (i == 0 || append(data, kPage, ",")) &&
                      append(data, kPage, stub.plan.list_item(open.list, i));
    if (!fits) {
      stub.why = "overlay options are longer than a page";
      return -kE2big;
    }
  }
  const char* place = stub.plan.string(open.path);
  const long home = sys::openat(AT_FDCWD, "/proc/self/ns/mnt", sys::kRdonly | sys::kCloexec);
  if (home < 0) return home;
  long result = sys::unshare(CLONE_NEWNS);
  if (result >= 0)
    result = sys::raw(SYS_mount, 0, sys::word("/"), 0,
                      static_cast<long>(sys::kMsRec | sys::kMsPrivate), 0);
  // Relative layers are resolved from the cwd, which unshare has moved into the copy with us.
  if (result >= 0)
    result = sys::raw(SYS_mount, sys::word("overlay"), sys::word(place), sys::word("overlay"), 0,
                      sys::word(data));
  if (result >= 0) result = sys::open_tree(AT_FDCWD, place, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  const long back = sys::setns(static_cast<int>(home), CLONE_NEWNS);
  sys::close(static_cast<int>(home));
  if (back < 0) return back;
  if (result >= 0 && open.flags != 0) {
    const long error = set_attributes(static_cast<int>(result), open.flags, 0, 0, false);
    if (error < 0) return error;
  }
  return result;
}

bool has_long_value(const Open& open) {
  for (uint32_t i = 0; i < stub.plan.list_size(open.list); i++)
    if (length(value_of(stub.plan.list_item(open.list, i))) > kValueMax) return true;
  return false;
}

long open_overlay(const Open& open) {
  if (const long error = sys::chdir(stub.plan.string(open.path)); error < 0) return error;
  long fd = overlay_by_fsconfig(open);
  if (has_long_value(open) && (fd == -kE2big || fd == -kEinval)) {
    fd = sys::chdir(stub.plan.string(open.path));
    if (fd >= 0) fd = overlay_by_mount(open);
  }
  const long back = sys::chdir("/");
  return back < 0 ? back : fd;
}

}  // namespace

long perform_open(const Open& open) {
  switch (open.kind) {
    case plan::kOpenTree:
      return open_tree(open);
    case plan::kOpenOverlay:
      return open_overlay(open);
    case plan::kOpenNamespace:
      return open_namespace(open);
    case plan::kOpenFile:
      return open_file(open);
    case plan::kOpenFd:
      if (open.a >= plan::kMaxFds) return -kEinval;
      return sys::fcntl(plan::kFirstFd + static_cast<int>(open.a), 1030 /* F_DUPFD_CLOEXEC */,
                        plan::kFirstFd);
    case plan::kOpenDevice:
      return open_device(open);
    case plan::kOpenFilesystem:
      return new_filesystem(stub.plan.string(open.data), stub.plan.string(open.path), open.list,
                            open.flags);
    default:
      return -kEinval;
  }
}

}  // namespace isopod::init
