// A loop on a thread of its own, with timers.
#pragma once

#include <cstdint>
#include <map>

#include "core/loop.h"

namespace isopod::core {

class Poller : public Loop {
 public:
  using Timer = std::pair<int64_t, uint64_t>;  // due, sequence

  // Started at the first call, never destroyed. Spawned programs and whatever needs a timer;
  // container output has a thread of its own (pump.h), so that a slow disk under a log delays no
  // exit.
  static Poller& control();

  // On its own thread only.
  Timer after(int64_t milliseconds, Task task);
  void cancel(const Timer& timer);

 private:
  Poller();
  [[noreturn]] void run();
  int run_timers();

  std::map<Timer, Task> timers_;
  uint64_t sequence_ = 0;
};

// Milliseconds of CLOCK_MONOTONIC.
int64_t now_ms();
// Nanoseconds since 1970.
int64_t wall_ns();

}  // namespace isopod::core
