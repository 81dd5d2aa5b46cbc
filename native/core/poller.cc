#include "core/poller.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>

#include "core/jobs.h"

namespace isopod::core {

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

int64_t wall_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

Poller& Poller::control() {
  static Poller* instance = new Poller;
  return *instance;
}

Poller::Poller() {
  // Without a thread nothing here can ever work; there is no caller who could go on.
  if (!run_detached([this] { run(); })) abort();
}

Poller::Timer Poller::after(int64_t milliseconds, Task task) {
  const Timer timer{now_ms() + milliseconds, ++sequence_};
  timers_.emplace(timer, std::move(task));
  return timer;
}

void Poller::cancel(const Timer& timer) { timers_.erase(timer); }

// Runs what is due; returns how long the loop may wait for the next, -1 for ever.
int Poller::run_timers() {
  for (;;) {
    if (timers_.empty()) return -1;
    const auto first = timers_.begin();
    const int64_t left = first->first.first - now_ms();
    if (left > 0) return static_cast<int>(std::min<int64_t>(left, 1 << 30));
    Task task = std::move(first->second);
    timers_.erase(first);
    task();
  }
}

void Poller::run() {
  for (;;) turn(run_timers());
}

}  // namespace isopod::core
