#include "core/netns_spare.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <string>

#include "core/jobs.h"

namespace isopod::core {

namespace {

// The spare has no descriptor: a thread is in it, and gets itself another when it has been given
// away.
struct Reserve {
  std::mutex mutex;
  std::condition_variable taken;
  bool running = false;
  bool ready = false;
  int tid = 0;
};

Reserve& reserve() {
  static Reserve* instance = new Reserve;
  return *instance;
}

void keep() {
  Reserve& r = reserve();
  std::unique_lock<std::mutex> lock(r.mutex);
  r.tid = static_cast<int>(::syscall(SYS_gettid));
  for (;;) {
    lock.unlock();
    // Leaves the one before, which is its container's alone from now on.
    const bool made = ::unshare(CLONE_NEWNET) == 0;
    lock.lock();
    // Ending, not staying: a thread in a container's namespace would keep it alive.
    r.running = made;
    if (!made) return;
    r.ready = true;
    r.taken.wait(lock, [&r] { return !r.ready; });
  }
}

}  // namespace

UniqueFd take_spare_netns() {
  Reserve& r = reserve();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (!r.running) r.running = run_detached(keep);
  if (!r.ready) return UniqueFd();
  const std::string path = "/proc/self/task/" + std::to_string(r.tid) + "/ns/net";
  UniqueFd spare(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  r.ready = false;
  r.taken.notify_one();
  return spare;
}

}  // namespace isopod::core
