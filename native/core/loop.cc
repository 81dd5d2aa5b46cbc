#include "core/loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cerrno>

namespace isopod::core {

namespace {
constexpr int kBatch = 64;
constexpr int kWake = -1;  // what an event of wake_ carries
}  // namespace

Loop::Loop() : epoll_(epoll_create1(EPOLL_CLOEXEC)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = kWake;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event);
}

void Loop::post(Task task) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  const bool first = posted_.empty();
  posted_.push_back(std::move(task));
  const uint64_t one = 1;
  while (first && ::write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

bool Loop::watch(int fd, uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return false;
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return true;
}

void Loop::rearm(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Loop::unwatch(int fd) {
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  handlers_.erase(fd);
}

void Loop::turn(int timeout) {
  epoll_event events[kBatch];
  const int count = epoll_wait(epoll_.get(), events, kBatch, timeout);
  for (int i = 0; i < count; i++) {
    const int fd = events[i].data.fd;
    if (fd == kWake) {
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

void Loop::run_posted() {
  std::vector<Task> tasks;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    uint64_t count;
    while (::read(wake_.get(), &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    tasks.swap(posted_);
  }
  for (Task& task : tasks) task();
}

void Loop::close() {
  std::vector<Task> tasks;
  std::map<int, std::shared_ptr<Handler>> handlers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    wake_.reset();
    tasks.swap(posted_);
  }
  epoll_.reset();
  handlers.swap(handlers_);
}

}  // namespace isopod::core
