// A thread of a virtual machine, with all signals blocked: Node's handlers never run on it.
#pragma once

#include <pthread.h>

#include <functional>

#include "base/result.h"

namespace isopod::vmm {

class Thread {
 public:
  Thread() = default;
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  ~Thread() { join(); }

  // `name`: at most 15 bytes, as /proc/PID/task/TID/comm shows it. Once per object until joined.
  Status start(const char* name, std::function<void()> body);
  // Not on the thread itself. Again, or without start(): nothing.
  void join();
  bool running() const { return running_; }
  bool is_current() const { return running_ && pthread_equal(pthread_self(), thread_) != 0; }
  // For pthread_kill, while running().
  pthread_t handle() const { return thread_; }

 private:
  pthread_t thread_{};
  bool running_ = false;
  std::function<void()> body_;
};

}  // namespace isopod::vmm
