// An event loop that a test turns by hand, with a clock that stands still until it is moved.
#pragma once

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/fd.h"
#include "vmm/loop.h"

namespace isopod::vmm::virtio::test {

class TestLoop final : public Loop {
 public:
  TestLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC)) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = wake_.get();
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
  }

  bool watch(int fd, uint32_t events, Handler handler) override {
    if (handlers_.count(fd) != 0) abort();
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return false;
    handlers_[fd] = std::make_shared<Handler>(std::move(handler));
    return true;
  }
  void rearm(int fd, uint32_t events) override {
    if (handlers_.count(fd) == 0) abort();
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
  }
  void unwatch(int fd) override {
    if (handlers_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }
  Timer after(uint64_t nanoseconds, std::function<void()> task) override {
    timers_[++last_timer_] = {now_ + nanoseconds, std::move(task)};
    return last_timer_;
  }
  void cancel(Timer timer) override { timers_.erase(timer); }
  void post(std::function<void()> task) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_.push_back(std::move(task));
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
  }
  uint64_t now() const override { return now_; }

  // --- for tests ---
  void advance(uint64_t nanoseconds) {
    now_ += nanoseconds;
    for (;;) {
      auto due = timers_.begin();
      while (due != timers_.end() && due->second.first > now_) ++due;
      if (due == timers_.end()) return;
      auto task = std::move(due->second.second);
      timers_.erase(due);
      task();
    }
  }
  size_t timers() const { return timers_.size(); }
  size_t watched() const { return handlers_.size(); }

  // Whether anything was done.
  bool turn(int milliseconds = 0) {
    epoll_event events[16];
    const int count = ::epoll_wait(epoll_.get(), events, 16, milliseconds);
    for (int i = 0; i < count; i++) {
      if (events[i].data.fd == wake_.get()) {
        run_posted();
        continue;
      }
      const auto found = handlers_.find(events[i].data.fd);
      if (found == handlers_.end()) continue;
      const std::shared_ptr<Handler> handler = found->second;
      (*handler)(events[i].events);
    }
    return count > 0;
  }
  // Until nothing is ready; a thousand turns without an end are a busy loop.
  void settle() {
    for (int i = 0; i < 1000; i++)
      if (!turn()) return;
    std::fprintf(stderr, "the loop never settles\n");
    abort();
  }
  // False: half a minute passed.
  bool until(const std::function<bool()>& condition) {
    for (int i = 0; i < 3000; i++) {
      if (condition()) return true;
      turn(10);
    }
    return condition();
  }

 private:
  void run_posted() {
    uint64_t count;
    [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof(count));
    std::deque<std::function<void()>> tasks;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks.swap(posted_);
    }
    for (auto& task : tasks) task();
  }

  UniqueFd epoll_;
  UniqueFd wake_;
  std::map<int, std::shared_ptr<Handler>> handlers_;
  std::map<Timer, std::pair<uint64_t, std::function<void()>>> timers_;
  Timer last_timer_ = 0;
  uint64_t now_ = 1'000'000'000;
  std::mutex mutex_;
  std::deque<std::function<void()>> posted_;
};

}  // namespace isopod::vmm::virtio::test
