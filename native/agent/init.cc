#include "agent/init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <sstream>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/file.h"

namespace isopod::agent {

namespace {

// Names of files in /modules, one a line, in the order in which they are to be loaded.
constexpr char kModules[] = "/modules";
constexpr char kModuleOrder[] = "/modules/order";
constexpr char kNewRoot[] = "/newroot";

struct Place {
  const char* type;
  const char* path;
  unsigned long flags;
  const char* data;
};
constexpr Place kPlaces[] = {
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=666,mode=620,gid=5"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755"},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC,
     "nsdelegate,memory_recursiveprot"},
};
// What moves into the new root; what is mounted below goes along.
constexpr const char* kMoved[] = {"/proc", "/sys", "/dev", "/run"};

Status mount_all() {
  for (const Place& place : kPlaces) {
    if (::mkdir(place.path, 0755) < 0 && errno != EEXIST)
      return failure(errno, "mkdir", place.path);
    // EBUSY: it is there already.
    if (::mount(place.type, place.path, place.type, place.flags, place.data) < 0 && errno != EBUSY)
      return Error{errno, "mount", place.type, place.path, {}, nullptr};
  }
  return Done{};
}

// stdio of the first process: what the initramfs has at /dev/console, if the kernel found one.
void open_console() {
  const UniqueFd console(::open("/dev/console", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!console) return;
  for (int fd = 0; fd < 3; fd++) ::dup2(console.get(), fd);
}

Status load_modules() {
  Result<std::string> order = read_file(AT_FDCWD, kModuleOrder);
  if (!order) return order.error().err == ENOENT ? Status(Done{}) : Status(order.error());
  std::istringstream lines(*order);
  for (std::string name; std::getline(lines, name);) {
    const std::string path = std::string(kModules) + "/" + name;
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) return failure(errno, "module", name);
    // EEXIST: it is in the kernel already.
    if (::syscall(SYS_finit_module, file.get(), "", 0) < 0 && errno != EEXIST)
      return failure(errno, "module", name);
    ::unlink(path.c_str());  // the initramfs is memory
  }
  return Done{};
}

// What processes inherit where their spec says nothing: the kernel's own 1024 and 4096 are for
// another age, and more than this as a soft limit makes programs that close all descriptors slow.
void raise_limits() {
  constexpr rlimit kFiles{65536, 1048576};
  ::setrlimit(RLIMIT_NOFILE, &kFiles);
}

// Best effort: a controller that cannot be handed down is missed by the write that needs it.
void hand_down_controllers() {
  Result<std::string> controllers = read_file(AT_FDCWD, "/sys/fs/cgroup/cgroup.controllers");
  if (!controllers) return;
  std::istringstream words(*controllers);
  for (std::string word; words >> word;)
    static_cast<void>(
        write_file(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", "+" + word).ok());
}

}  // namespace

Status prepare_guest(bool modules) {
  ::umask(022);
  raise_limits();
  if (Status mounted = mount_all(); !mounted) return mounted;
  open_console();
  if (modules)
    if (Status loaded = load_modules(); !loaded) return loaded;
  hand_down_controllers();
  return Done{};
}

Status enter_root() {
  const auto failed = [](const char* path) { return failure(errno, "root", path); };
  if (::mkdir(kNewRoot, 0755) < 0 && errno != EEXIST) return failed(kNewRoot);
  if (::mount("tmpfs", kNewRoot, "tmpfs", 0, "mode=755") < 0) return failed(kNewRoot);
  const std::string root = kNewRoot;
  for (const char* directory : {"/initramfs", "/tmp", "/proc", "/sys", "/dev", "/run"})
    if (::mkdir((root + directory).c_str(), 0755) < 0) return failed(directory);
  if (::mount("/", (root + "/initramfs").c_str(), nullptr, MS_BIND, nullptr) < 0)
    return failed("/initramfs");
  for (const char* path : kMoved)
    if (::mount(path, (root + path).c_str(), nullptr, MS_MOVE, nullptr) < 0) return failed(path);
  // As switch_root(8): the new root over the old one, and everybody into it.
  if (::chdir(kNewRoot) < 0 || ::mount(".", "/", nullptr, MS_MOVE, nullptr) < 0 ||
      ::chroot(".") < 0 || ::chdir("/") < 0)
    return failed("/");
  return Done{};
}

void power_off() {
  ::sync();
  ::reboot(static_cast<int>(LINUX_REBOOT_CMD_POWER_OFF));
  // Not allowed, or not possible: the end of the first process is the end of the guest as well.
  ::_exit(0);
}

}  // namespace isopod::agent
