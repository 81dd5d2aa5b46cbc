#include "core/pump.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <mutex>

namespace isopod::core {
namespace {

constexpr size_t kBuffer = 64 * 1024;  // a FIFO's default capacity: one read empties it
constexpr uint64_t kWake = 0;          // epoll data of the command eventfd; handles start at 1

// The sink's descriptor is watched under the same handle, marked, while it pushes back.
constexpr uint64_t kSinkBit = 1ull << 32;

struct Channel {
  UniqueFd from;
  std::unique_ptr<Sink> sink;
  std::string rest;       // read, not yet taken by the sink
  int waiting_on = -1;    // the sink's descriptor in the epoll set
  bool stopping = false;  // drain, then end
};

}  // namespace

struct Pump::State {
  std::mutex mutex;  // guards all below; the thread holds it while it moves bytes of one event
  UniqueFd epoll, wake;
  int next = 1;
  std::map<int, Channel> channels;
  std::map<int, Ended> waiters;                    // of running pumps
  std::map<int, std::vector<uint8_t>> collected;   // of ended pumps that nobody has asked for yet
  std::vector<int> stops;
  char buffer[kBuffer];

  void run();
  void on_event(uint64_t data, uint32_t events);
  bool move(int handle, Channel& channel);
  bool push(int handle, Channel& channel, const char* data, size_t size);
  void wait_for_sink(int handle, Channel& channel, bool wait);
  void end(int handle);
  int watch(int fd, uint32_t events, uint64_t data);
};

Pump& Pump::instance() {
  // Never destroyed: its thread never ends.
  static Pump* pump = new Pump();
  return *pump;
}

Pump::Pump() : state_(std::make_unique<State>()) {
  state_->epoll = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  state_->wake = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  state_->watch(state_->wake.get(), EPOLLIN, kWake);
  // Signals belong to Node's threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread;
  pthread_create(
      &thread, nullptr,
      [](void* state) -> void* {
        static_cast<State*>(state)->run();
        return nullptr;
      },
      state_.get());
  pthread_setname_np(thread, "isopod-pump");
  pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

Result<int> Pump::start(UniqueFd from, std::unique_ptr<Sink> sink) {
  int flags = fcntl(from.get(), F_GETFL);
  if (flags < 0 || fcntl(from.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return failure(errno, "pump", "descriptor " + std::to_string(from.get()));
  }
  std::lock_guard lock(state_->mutex);
  int handle = state_->next++;
  if (state_->watch(from.get(), EPOLLIN, static_cast<uint64_t>(handle)) < 0) {
    return failure(errno, "pump", "descriptor " + std::to_string(from.get()));
  }
  state_->channels[handle] = Channel{std::move(from), std::move(sink), {}, -1, false};
  return handle;
}

void Pump::on_end(int handle, Ended ended) {
  std::unique_lock lock(state_->mutex);
  if (state_->channels.count(handle) != 0) {
    state_->waiters[handle] = std::move(ended);
    return;
  }
  std::vector<uint8_t> bytes;
  if (auto found = state_->collected.find(handle); found != state_->collected.end()) {
    bytes = std::move(found->second);
    state_->collected.erase(found);
  }
  lock.unlock();
  ended(std::move(bytes));
}

void Pump::stop(int handle) {
  std::lock_guard lock(state_->mutex);
  if (state_->channels.count(handle) == 0) return;
  state_->stops.push_back(handle);
  uint64_t one = 1;
  if (write(state_->wake.get(), &one, sizeof(one)) < 0) return;  // already awake
}

void Pump::State::run() {
  epoll_event events[64];
  for (;;) {
    int n = epoll_wait(epoll.get(), events, 64, -1);
    for (int i = 0; i < n; i++) {
      std::lock_guard lock(mutex);
      on_event(events[i].data.u64, events[i].events);
    }
  }
}

void Pump::State::on_event(uint64_t data, uint32_t events) {
  if (data == kWake) {
    uint64_t count;
    if (read(wake.get(), &count, sizeof(count)) < 0) return;
    for (int handle : std::exchange(stops, {})) {
      auto found = channels.find(handle);
      if (found == channels.end()) continue;
      found->second.stopping = true;
      if (!move(handle, found->second)) end(handle);
    }
    return;
  }
  int handle = static_cast<int>(data & ~kSinkBit);
  auto found = channels.find(handle);
  if (found == channels.end()) return;
  Channel& channel = found->second;
  bool alive;
  if ((data & kSinkBit) != 0) {
    std::string rest = std::exchange(channel.rest, {});
    wait_for_sink(handle, channel, false);
    alive = push(handle, channel, rest.data(), rest.size()) ? true : move(handle, channel);
  } else {
    alive = move(handle, channel);
    // Hung up and empty: the last writer has gone.
    if (alive && (events & (EPOLLHUP | EPOLLERR)) != 0 && (events & EPOLLIN) == 0) alive = false;
  }
  if (!alive) end(handle);
}

// Reads once and offers it. False: the source has ended.
bool Pump::State::move(int handle, Channel& channel) {
  if (channel.waiting_on >= 0) return !channel.stopping;
  for (;;) {
    ssize_t n = read(channel.from.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    // 0: all writers gone, or none yet; EPOLLHUP tells which. EIO: the last slave of a pty has closed.
    if (n == 0) return !channel.stopping;
    if (n < 0) return errno == EAGAIN && !channel.stopping;
    if (push(handle, channel, buffer, static_cast<size_t>(n))) return !channel.stopping;
    // One read an event, so that a chatty container does not starve the others; all of it when stopping.
    if (!channel.stopping) return true;
  }
}

// Offers bytes to the sink. True: it pushed back, and the rest waits.
bool Pump::State::push(int handle, Channel& channel, const char* data, size_t size) {
  while (size > 0) {
    size_t taken = channel.sink->offer(data, size);
    if (taken == 0) {
      channel.rest.assign(data, size);
      wait_for_sink(handle, channel, true);
      return true;
    }
    data += taken;
    size -= taken;
  }
  return false;
}

// While the sink pushes back its descriptor is watched instead of the source. The source leaves the set:
// EPOLLHUP is reported whether asked for or not.
void Pump::State::wait_for_sink(int handle, Channel& channel, bool wait) {
  if (wait) {
    epoll_ctl(epoll.get(), EPOLL_CTL_DEL, channel.from.get(), nullptr);
    channel.waiting_on = channel.sink->blocked_on();
    watch(channel.waiting_on, EPOLLOUT, static_cast<uint64_t>(handle) | kSinkBit);
  } else {
    epoll_ctl(epoll.get(), EPOLL_CTL_DEL, channel.waiting_on, nullptr);
    channel.waiting_on = -1;
    watch(channel.from.get(), EPOLLIN, static_cast<uint64_t>(handle));
  }
}

int Pump::State::watch(int fd, uint32_t events, uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  return epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event);
}

void Pump::State::end(int handle) {
  auto found = channels.find(handle);
  Channel channel = std::move(found->second);
  channels.erase(found);
  epoll_ctl(epoll.get(), EPOLL_CTL_DEL, channel.from.get(), nullptr);
  if (channel.waiting_on >= 0) epoll_ctl(epoll.get(), EPOLL_CTL_DEL, channel.waiting_on, nullptr);
  channel.sink->finish();
  std::vector<uint8_t> bytes = channel.sink->take();
  if (auto waiter = waiters.find(handle); waiter != waiters.end()) {
    Ended ended = std::move(waiter->second);
    waiters.erase(waiter);
    ended(std::move(bytes));
  } else if (!bytes.empty()) {
    collected[handle] = std::move(bytes);
  }
}

}  // namespace isopod::core
