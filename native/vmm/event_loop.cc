#include "vmm/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include <cerrno>
#include <utility>

namespace isopod::vmm {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;

void drain(int fd) {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(fd, &count, sizeof(count));
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  loop->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  loop->timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!loop->epoll_ || !loop->wake_ || !loop->timer_) return failure(errno, "event loop", "");
  if (!loop->watch_own()) return failure(errno, "event loop", "");
  return loop;
}

bool EventLoop::watch_own() {
  return watch(wake_.get(), EPOLLIN, [this](uint32_t) { drain(wake_.get()); }) &&
         watch(timer_.get(), EPOLLIN, [this](uint32_t) {
           drain(timer_.get());
           run_timers();
         });
}

EventLoop::~EventLoop() { stop(); }

Status EventLoop::start() {
  return thread_.start("vmm", [this] { run(); });
}

void EventLoop::stop() {
  if (!thread_.running()) return;
  stopping_.store(true);
  post([] {});
  thread_.join();
  std::lock_guard lock(mutex_);
  posted_.clear();
}

bool EventLoop::watch(int fd, uint32_t events, Handler handler) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return false;
  handlers_[fd] = std::make_shared<Handler>(std::move(handler));
  return true;
}

void EventLoop::rearm(int fd, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::unwatch(int fd) {
  if (handlers_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

Loop::Timer EventLoop::after(uint64_t nanoseconds, std::function<void()> task) {
  const Timer timer = next_timer_++;
  const uint64_t when = now() + nanoseconds;
  timers_[timer] = std::move(task);
  when_[timer] = when;
  due_[{when, timer}] = timer;
  if (due_.begin()->second == timer) arm();
  return timer;
}

void EventLoop::cancel(Timer timer) {
  const auto found = when_.find(timer);
  if (found == when_.end()) return;
  due_.erase({found->second, timer});
  when_.erase(found);
  timers_.erase(timer);
}

void EventLoop::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof(one));
}

uint64_t EventLoop::now() const {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * kSecond + static_cast<uint64_t>(time.tv_nsec);
}

// The timer shows the earliest deadline; a cancelled one costs a wake-up for nothing.
void EventLoop::arm() {
  itimerspec at{};
  if (!due_.empty()) {
    const uint64_t when = due_.begin()->first.first;
    at.it_value.tv_sec = static_cast<time_t>(when / kSecond);
    at.it_value.tv_nsec = static_cast<long>(when % kSecond);
    if (when == 0) at.it_value.tv_nsec = 1;
  }
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &at, nullptr);
}

void EventLoop::run_timers() {
  const uint64_t until = now();
  while (!due_.empty() && due_.begin()->first.first <= until) {
    const Timer timer = due_.begin()->second;
    due_.erase(due_.begin());
    when_.erase(timer);
    const auto found = timers_.find(timer);
    const std::function<void()> task = std::move(found->second);
    timers_.erase(found);
    task();
  }
  arm();
}

void EventLoop::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (const auto& task : tasks) task();
}

void EventLoop::run() {
  epoll_event events[32];
  while (!stopping_.load()) {
    const int count = ::epoll_wait(epoll_.get(), events, 32, -1);
    for (int i = 0; i < count; i++) {
      // An earlier handler of this round may have unwatched it.
      const auto found = handlers_.find(events[i].data.fd);
      if (found == handlers_.end()) continue;
      const std::shared_ptr<Handler> handler = found->second;
      (*handler)(events[i].events);
    }
    run_posted();
  }
  run_posted();
}

}  // namespace isopod::vmm
