#include "agent/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "core/poller.h"

namespace isopod::agent {

namespace {

constexpr size_t kBuffer = 64 * 1024;  // a pipe's default capacity

void make_nonblocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

Relay::Relay(UniqueFd from, UniqueFd to, std::function<void()> ended)
    : from_(std::move(from)), to_(std::move(to)), ended_(std::move(ended)) {
  make_nonblocking(from_.get());
  make_nonblocking(to_.get());
}

std::shared_ptr<Relay> Relay::start(UniqueFd from, UniqueFd to, std::function<void()> ended) {
  std::shared_ptr<Relay> relay(new Relay(std::move(from), std::move(to), std::move(ended)));
  auto& poller = core::Poller::control();
  if (!poller.watch(relay->from_.get(), EPOLLIN, [relay](uint32_t) { relay->readable(); }))
    relay->stop();
  return relay;
}

void Relay::finish() {
  finishing_ = true;
  if (from_ && !waiting_) readable();
}

void Relay::stop() {
  const auto self = shared_from_this();
  auto& poller = core::Poller::control();
  if (from_) poller.unwatch(from_.get());
  if (waiting_) poller.unwatch(to_.get());
  waiting_ = false;
  from_.reset();
  // The other direction of a terminal's stream goes on.
  if (to_) ::shutdown(to_.get(), SHUT_WR);
  to_.reset();
  rest_.clear();
  if (ended_) std::exchange(ended_, nullptr)();
}

void Relay::readable() {
  const auto self = shared_from_this();
  // One read an event, so that a chatty process does not starve the others; all when finishing.
  do {
    rest_.resize(kBuffer);
    const ssize_t size = ::read(from_.get(), rest_.data(), rest_.size());
    rest_.resize(size > 0 ? static_cast<size_t>(size) : 0);
    written_ = 0;
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN && !finishing_) return;
    // EIO: the last slave of a terminal has closed.
    if (size <= 0) return stop();
    if (!write()) return wait_for(true);
  } while (finishing_);
}

void Relay::writable() {
  const auto self = shared_from_this();
  if (!write()) return;
  wait_for(false);
  if (finishing_) readable();
}

bool Relay::write() {
  while (to_ && written_ < rest_.size()) {
    const ssize_t size = ::write(to_.get(), rest_.data() + written_, rest_.size() - written_);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) return false;
    if (size < 0) {
      if (waiting_) core::Poller::control().unwatch(to_.get());
      to_.reset();
      break;
    }
    written_ += static_cast<size_t>(size);
  }
  return true;
}

// While `to` pushes back it is watched instead of `from`, whose hang-up would be reported whether
// asked for or not.
void Relay::wait_for(bool writable) {
  if (waiting_ == writable) return;
  waiting_ = writable;
  auto self = shared_from_this();
  auto& poller = core::Poller::control();
  if (writable) {
    poller.unwatch(from_.get());
    if (poller.watch(to_.get(), EPOLLOUT, [self](uint32_t) { self->writable(); })) return;
    waiting_ = false;
    stop();
  } else {
    if (to_) poller.unwatch(to_.get());
    if (!poller.watch(from_.get(), EPOLLIN, [self](uint32_t) { self->readable(); })) stop();
  }
}

}  // namespace isopod::agent
