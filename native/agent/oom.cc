#include "agent/oom.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "agent/cgroups.h"
#include "agent/messages.h"
#include "core/poller.h"

namespace isopod::agent {

OomWatch::OomWatch() : inotify_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  if (inotify_)
    core::Poller::control().post([this] {
      core::Poller::control().watch(inotify_.get(), EPOLLIN, [this](uint32_t) { readable(); });
    });
}

void OomWatch::wait(const Call& call, const std::string& cgroup, uint64_t seen) {
  const std::string file = cgroup + "/memory.events";
  // Watched before it is read, so that no change falls between. A second watch is the first one.
  const int watch = ::inotify_add_watch(inotify_.get(), file.c_str(), IN_MODIFY);
  if (watch < 0) {
    Error error = failure(errno, "watch", file);
    if (error.err == ENOENT) {
      error.why = "no memory controller";
      error.code = "FAILED_PRECONDITION";
    }
    return call.fail(error);
  }
  Watched& watched = watched_[watch];
  watched.cgroup = cgroup;
  watched.waiters.push_back(Waiter{call, seen});
  look(watched);
}

void OomWatch::forget(const std::string& cgroup) {
  for (auto it = watched_.begin(); it != watched_.end();) {
    if (it->second.cgroup != cgroup) {
      ++it;
      continue;
    }
    for (const Waiter& waiter : it->second.waiters)
      waiter.call.fail(Error{0, "watch", cgroup, {}, "the container is gone", "NOT_FOUND"});
    ::inotify_rm_watch(inotify_.get(), it->first);
    it = watched_.erase(it);
  }
}

void OomWatch::readable() {
  alignas(inotify_event) char buffer[4096];
  for (;;) {
    const ssize_t size = ::read(inotify_.get(), buffer, sizeof(buffer));
    if (size <= 0) return;
    for (ssize_t at = 0; at < size;) {
      inotify_event event;
      std::memcpy(&event, buffer + at, sizeof(event));
      at += static_cast<ssize_t>(sizeof(event) + event.len);
      if (const auto found = watched_.find(event.wd); found != watched_.end()) look(found->second);
    }
  }
}

void OomWatch::look(Watched& watched) {
  const uint64_t kills = cgroup_oom_kills(watched.cgroup);
  std::vector<Waiter> waiting = std::exchange(watched.waiters, {});
  for (Waiter& waiter : waiting) {
    if (kills > waiter.seen)
      waiter.call.reply(encode_oom(kills));
    else
      watched.waiters.push_back(std::move(waiter));
  }
}

}  // namespace isopod::agent
