#include "core/poller.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "core/jobs.h"

namespace isopod::core {

namespace {
constexpr int kBatch = 64;
}  // namespace

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

Poller::Poller()
    : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_.get();
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
  // Without a thread nothing here can ever work; there is no caller who could go on.
  if (!run_detached([this] { run(); })) abort();
}

void Poller::post(Task task) {
  bool first;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(task));
  }
  if (!first) return;
  const uint64_t one = 1;
  while (::write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

bool Poller::watch(int fd, uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return false;
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return true;
}

void Poller::rearm(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Poller::unwatch(int fd) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  handlers_.erase(fd);
}

Poller::Timer Poller::after(int64_t milliseconds, Task task) {
  const Timer timer{now_ms() + milliseconds, ++sequence_};
  timers_.emplace(timer, std::move(task));
  return timer;
}

void Poller::cancel(const Timer& timer) { timers_.erase(timer); }

void Poller::run_posted() {
  uint64_t count;
  while (::read(wake_.get(), &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  std::vector<Task> tasks;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks.swap(posted_);
  }
  for (Task& task : tasks) task();
}

// Runs what is due; returns how long epoll may wait for the next, -1 for ever.
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
  epoll_event events[kBatch];
  for (;;) {
    const int timeout = run_timers();
    const int count = epoll_wait(epoll_.get(), events, kBatch, timeout);
    for (int i = 0; i < count; i++) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) {
        run_posted();
        continue;
      }
      // A handler may unwatch itself or others: hold it while it runs.
      const auto found = handlers_.find(fd);
      if (found == handlers_.end()) continue;
      const std::shared_ptr<Handler> handler = found->second;
      (*handler)(events[i].events);
    }
  }
}

}  // namespace isopod::core
