#include "core/netns.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace isopod::core {
namespace {

Status loopback_up() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return failure(errno, "bring up", "lo");
  ifreq request{};
  strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0) return failure(errno, "bring up", "lo");
  return Done{};
}

// A shared mount at `directory`, made once; the lock is against another daemon that does the same.
Status share(const std::string& directory) {
  if (mkdir(directory.c_str(), 0755) < 0 && errno != EEXIST) return failure(errno, "make", directory);
  UniqueFd lock(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock || flock(lock.get(), LOCK_EX) < 0) return failure(errno, "lock", directory);
  if (mount("", directory.c_str(), "none", MS_SHARED | MS_REC, nullptr) == 0) return Done{};
  if (errno != EINVAL) return failure(errno, "share mount", directory);
  // EINVAL: not a mount point yet.
  if (mount(directory.c_str(), directory.c_str(), "none", MS_BIND | MS_REC, nullptr) < 0 ||
      mount("", directory.c_str(), "none", MS_SHARED | MS_REC, nullptr) < 0) {
    return failure(errno, "share mount", directory);
  }
  return Done{};
}

}  // namespace

Status netns_create(const std::string& path) {
  if (Status shared = share(path.substr(0, path.rfind('/'))); !shared) return shared;
  UniqueFd pin(open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!pin) return failure(errno, "make network namespace", path);
  pin.reset();
  Status made = Done{};
  if (unshare(CLONE_NEWNET) < 0) {
    made = failure(errno, "make network namespace", path);
  } else if (made = loopback_up(); made) {
    if (mount("/proc/thread-self/ns/net", path.c_str(), "none", MS_BIND, nullptr) < 0) {
      made = failure(errno, "pin network namespace", path);
    }
  }
  if (!made) unlink(path.c_str());
  return made;
}

Status netns_delete(const std::string& path) {
  // EINVAL: not mounted; a pin that lost its mount is only a file.
  if (umount2(path.c_str(), MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT) {
    return failure(errno, "unpin network namespace", path);
  }
  if (unlink(path.c_str()) < 0 && errno != ENOENT) return failure(errno, "remove", path);
  return Done{};
}

}  // namespace isopod::core
