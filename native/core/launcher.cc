#include "core/launcher.h"

#include <condition_variable>
#include <deque>
#include <mutex>

#include "core/jobs.h"

namespace isopod::core {

namespace {

constexpr int kLaunchers = 2;

struct Queue {
  std::mutex mutex;
  std::condition_variable wanted;
  std::deque<std::function<void()>> tasks;
  int threads = 0;
};

// Never destroyed: launchers outlive every destructor that runs at exit.
Queue& queue() {
  static Queue* instance = new Queue;
  return *instance;
}

[[noreturn]] void serve() {
  Queue& q = queue();
  for (;;) {
    std::unique_lock<std::mutex> lock(q.mutex);
    q.wanted.wait(lock, [&] { return !q.tasks.empty(); });
    std::function<void()> task = std::move(q.tasks.front());
    q.tasks.pop_front();
    lock.unlock();
    task();
  }
}

}  // namespace

void on_launcher(std::function<void()> task) {
  Queue& q = queue();
  std::lock_guard<std::mutex> lock(q.mutex);
  q.tasks.push_back(std::move(task));
  // Without any thread the task waits for the next call that gets one; with one it is only slower.
  while (q.threads < kLaunchers && run_detached(serve)) q.threads++;
  q.wanted.notify_one();
}

}  // namespace isopod::core
