// The working part of an event loop: descriptors that are watched, and tasks posted from other
// threads. Whoever drives it decides what thread that is: the poller drives one with a thread of
// its own (poller.h), and Node's own loop drives another for what JavaScript waits for, so that a
// stub's word or a process's end reaches it without a thread in between.
//
// Everything but post() is for the driving thread only. A handler must tolerate an event that no
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

class Loop {
 public:
  using Handler = std::function<void(uint32_t events)>;

  Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // An epoll descriptor: whenever it is readable there is something for turn() to do.
  int descriptor() const { return epoll_.get(); }
  // Waits up to `timeout` ms (-1: for ever) and runs what there is.
  void turn(int timeout);

  // From any thread; tasks run in order.
  void post(Task task);

  // The caller keeps the descriptor open until unwatch(). False, with errno: out of memory or of
  // epoll watches.
  bool watch(int fd, uint32_t events, Handler handler);
  // Changes the events of interest of a watched descriptor.
  void rearm(int fd, uint32_t events);
  void unwatch(int fd);

  // Destroys what is posted and every handler, now and from now on; they must know what to do then.
  void close();

 private:
  void run_posted();

  UniqueFd epoll_;
  std::mutex mutex_;  // of wake_, posted_ and closed_
  UniqueFd wake_;
  std::vector<Task> posted_;
  bool closed_ = false;
  std::map<int, std::shared_ptr<Handler>> handlers_;
};

}  // namespace isopod::core
