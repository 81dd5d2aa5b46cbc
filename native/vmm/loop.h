// The event loop of one virtual machine: device queues, taps, timers, streams, on one thread that
// is neither Node's nor a vCPU's. Handlers run on that thread only, so devices need no locks among
// themselves.
#pragma once

#include <cstdint>
#include <functional>

namespace isopod::vmm {

class Loop {
 public:
  using Handler = std::function<void(uint32_t events)>;  // EPOLLIN, ...
  using Timer = uint64_t;                                // 0 is none

  virtual ~Loop() = default;
  // Level-triggered. The caller keeps the descriptor open until unwatch(); after unwatch() returns
  // the handler is not called again. False: the descriptor cannot be watched.
  [[nodiscard]] virtual bool watch(int fd, uint32_t events, Handler handler) = 0;
  virtual void rearm(int fd, uint32_t events) = 0;
  virtual void unwatch(int fd) = 0;
  // Once, after at least so many nanoseconds of CLOCK_MONOTONIC.
  virtual Timer after(uint64_t nanoseconds, std::function<void()> task) = 0;
  virtual void cancel(Timer timer) = 0;
  // From any thread; in order.
  virtual void post(std::function<void()> task) = 0;
  virtual uint64_t now() const = 0;  // CLOCK_MONOTONIC, nanoseconds
};

}  // namespace isopod::vmm
