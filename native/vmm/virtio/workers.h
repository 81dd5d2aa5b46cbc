// Threads for what may block: disks and shared files. The loop gives work and is told when it is
// done; it waits only where the guest itself asked for the end of things.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "vmm/loop.h"
#include "vmm/thread.h"

namespace isopod::vmm::virtio {

class Workers {
 public:
  using Task = std::function<void()>;

  // The loop is borrowed; `name` shows in /proc/PID/task/TID/comm.
  static Result<std::unique_ptr<Workers>> create(Loop& loop, const char* name, unsigned threads);
  ~Workers();

  // All on the loop's thread. `work` runs on one of the threads, in order if there is one only;
  // `done` on the loop's afterwards.
  void run(Task work, Task done);
  // Returns when all work is done and every `done` was called.
  void finish();
  // Forgets what has not begun, waits for what has; no `done` is called.
  void discard();

 private:
  Workers() = default;
  struct Item {
    Task work;
    Task done;
  };
  // Outlives us in tasks that the loop still holds.
  struct State {
    std::mutex mutex;
    std::condition_variable wanted;  // work, or the end
    std::condition_variable idle;    // running == 0
    std::deque<Item> queued;
    std::vector<Task> completed;
    unsigned running = 0;
    bool posted = false;
    bool ending = false;
  };
  static void serve(const std::shared_ptr<State>& state, Loop& loop);
  static void deliver(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_ = std::make_shared<State>();
  std::vector<std::unique_ptr<Thread>> threads_;
};

}  // namespace isopod::vmm::virtio
