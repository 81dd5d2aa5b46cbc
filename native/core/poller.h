// An epoll loop on a thread of its own: descriptors, timers and tasks posted from other threads.
// Everything but post() is for its own thread only. A callback must tolerate an event that no
// longer holds: descriptors it watches are read without blocking.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"

namespace isopod::core {

using Task = std::function<void()>;

class Poller {
 public:
  using Handler = std::function<void(uint32_t events)>;
  using Timer = std::pair<int64_t, uint64_t>;  // due, sequence

  // Started at the first call, never destroyed. Sync sockets, pidfds and their timers; container
  // output has a thread of its own (pump.h), so that a slow disk under a log delays no exit.
  static Poller& control();

  // From any thread; tasks run in order.
  void post(Task task);

  // The caller keeps the descriptor open until unwatch(). False: out of memory or of epoll watches.
  bool watch(int fd, uint32_t events, Handler handler);
  // Changes the events of interest of a watched descriptor.
  void rearm(int fd, uint32_t events);
  void unwatch(int fd);
  Timer after(int64_t milliseconds, Task task);
  void cancel(const Timer& timer);

 private:
  Poller();
  [[noreturn]] void run();
  void run_posted();
  int run_timers();

  UniqueFd epoll_;
  UniqueFd wake_;
  std::mutex mutex_;
  std::vector<Task> posted_;
  std::map<int, std::shared_ptr<Handler>> handlers_;
  std::map<Timer, Task> timers_;
  uint64_t sequence_ = 0;
};

// Milliseconds of CLOCK_MONOTONIC.
int64_t now_ms();
// Nanoseconds since 1970.
int64_t wall_ns();

}  // namespace isopod::core
