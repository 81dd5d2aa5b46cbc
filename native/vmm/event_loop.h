// Loop on a thread of its own. Watches and timers may be set up before start() by the thread that
// will call it, then on the loop's thread only.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/loop.h"
#include "vmm/thread.h"

namespace isopod::vmm {

class EventLoop final : public Loop {
 public:
  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop() override;

  Status start();
  // Ends and joins the thread; what was posted by then has run, what is posted later never does.
  // Not on the loop's thread. Again, or without start(): nothing.
  void stop();
  bool on_thread() const { return thread_.is_current(); }

  [[nodiscard]] bool watch(int fd, uint32_t events, Handler handler) override;
  void rearm(int fd, uint32_t events) override;
  void unwatch(int fd) override;
  Timer after(uint64_t nanoseconds, std::function<void()> task) override;
  void cancel(Timer timer) override;
  void post(std::function<void()> task) override;
  uint64_t now() const override;

 private:
  EventLoop() = default;
  bool watch_own();
  void run();
  void run_posted();
  void run_timers();
  void arm();

  UniqueFd epoll_;
  UniqueFd wake_;   // eventfd: something was posted, or stop
  UniqueFd timer_;  // timerfd: the earliest of due_
  Thread thread_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  // Shared, since a handler may unwatch itself while it runs.
  std::map<int, std::shared_ptr<Handler>> handlers_;
  std::map<Timer, std::function<void()>> timers_;
  std::map<std::pair<uint64_t, Timer>, Timer> due_;  // when, in order of setting
  std::map<Timer, uint64_t> when_;
  Timer next_timer_ = 1;
};

}  // namespace isopod::vmm
