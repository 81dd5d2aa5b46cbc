#include "core/netns_spare.h"

#include <fcntl.h>
#include <sched.h>

#include <mutex>

#include "core/jobs.h"

namespace isopod::core {

namespace {

struct Reserve {
  std::mutex mutex;
  UniqueFd spare;
  bool being_made = false;
};

Reserve& reserve() {
  static Reserve* instance = new Reserve;
  return *instance;
}

// On a thread of its own, which leaves the namespace by ending: only the descriptor keeps it.
void make_spare() {
  UniqueFd made;
  if (::unshare(CLONE_NEWNET) == 0)
    made.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  Reserve& r = reserve();
  std::lock_guard<std::mutex> lock(r.mutex);
  r.spare = std::move(made);
  r.being_made = false;
}

}  // namespace

UniqueFd take_spare_netns() {
  Reserve& r = reserve();
  std::lock_guard<std::mutex> lock(r.mutex);
  UniqueFd taken = std::move(r.spare);
  if (!r.being_made) r.being_made = run_detached(make_spare);
  return taken;
}

}  // namespace isopod::core
