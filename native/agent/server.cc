#include "agent/server.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/poller.h"

namespace isopod::agent {

namespace {

// A host that asks without reading the answers is cut off: the agent's memory is the guest's.
constexpr size_t kMaxCalls = 4096;
constexpr size_t kMaxUnsent = 32 << 20;
constexpr size_t kChunk = 64 * 1024;

Error invalid(std::string why) {
  return Error{0, "request", {}, {}, std::move(why), "INVALID_ARGUMENT"};
}

}  // namespace

void Call::reply(std::string_view payload) const {
  const std::string response = encode_reply(payload);
  if (response.size() > kMaxData) {
    const std::string why = "answer of " + std::to_string(response.size()) + " bytes: too large";
    return fail(Error{0, "request", {}, {}, why, "RESOURCE_EXHAUSTED"});
  }
  if (const std::shared_ptr<Server> server = server_.lock()) server->respond(stream_, response);
}

void Call::fail(const Error& error) const {
  if (const std::shared_ptr<Server> server = server_.lock())
    server->respond(stream_, encode_failure(error));
}

void Call::answer(Status status) const { status ? reply() : fail(status.error()); }

void Server::start() {
  ::fcntl(stream_.get(), F_SETFL, ::fcntl(stream_.get(), F_GETFL) | O_NONBLOCK);
  auto self = shared_from_this();
  const bool watched = core::Poller::control().watch(
      stream_.get(), EPOLLIN, [self](uint32_t events) { self->ready(events); });
  if (!watched) end();
}

void Server::flushed(std::function<void()> done) {
  if (!stream_ || unsent_.empty()) return done();
  flushed_ = std::move(done);
}

void Server::ready(uint32_t events) {
  const auto self = shared_from_this();  // unwatching would end us with the handler
  if ((events & EPOLLOUT) != 0) flush();
  if (stream_ && (events & ~uint32_t{EPOLLOUT}) != 0) readable();
}

void Server::readable() {
  char buffer[kChunk];
  const ssize_t size = ::recv(stream_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size <= 0) return end();
  parser_.push(buffer, static_cast<size_t>(size), [this](Frame& frame) { received(frame); });
}

void Server::received(const Frame& frame) {
  if (!stream_ || frame.type != kRequest) return;
  const uint32_t id = frame.stream;
  const auto refuse = [&](const Error& error) {
    calls_.insert(id);
    respond(id, encode_failure(error));
  };
  const std::string named = "stream id " + std::to_string(id);
  if (id % 2 == 0) return refuse(invalid(named + ": must be odd for client streams"));
  if (id <= last_) return refuse(invalid(named + ": must be greater than the last one"));
  last_ = id;
  if (frame.oversize)
    return refuse(Error{0, "request", {}, {}, "message too large", "RESOURCE_EXHAUSTED"});
  if (calls_.size() >= kMaxCalls)
    return refuse(Error{0, "request", {}, {}, "too many calls at once", "RESOURCE_EXHAUSTED"});
  Request request;
  if (!decode(frame.data, request)) return refuse(invalid("malformed"));
  calls_.insert(id);
  handler_(Call(weak_from_this(), id), request);
}

void Server::respond(uint32_t stream, const std::string& response) {
  if (calls_.erase(stream) == 0 || !stream_) return;
  unsent_.push_back(encode_frame(stream, kResponse, response));
  unsent_bytes_ += unsent_.back().size();
  if (unsent_bytes_ > kMaxUnsent) return end();
  if (!waiting_) flush();
}

void Server::flush() {
  while (!unsent_.empty()) {
    const std::string& first = unsent_.front();
    const ssize_t size = ::send(stream_.get(), first.data() + sent_, first.size() - sent_,
                                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno != EAGAIN) return end();
    if (size < 0) break;
    sent_ += static_cast<size_t>(size);
    unsent_bytes_ -= static_cast<size_t>(size);
    if (sent_ < first.size()) continue;
    unsent_.pop_front();
    sent_ = 0;
  }
  if (waiting_ == unsent_.empty()) {
    waiting_ = !unsent_.empty();
    core::Poller::control().rearm(stream_.get(), waiting_ ? EPOLLIN | EPOLLOUT : EPOLLIN);
  }
  if (unsent_.empty() && flushed_) std::exchange(flushed_, nullptr)();
}

void Server::end() {
  if (!stream_) return;
  core::Poller::control().unwatch(stream_.get());
  stream_.reset();
  calls_.clear();
  unsent_.clear();
  if (flushed_) std::exchange(flushed_, nullptr)();
  if (ended_) std::exchange(ended_, nullptr)();
}

}  // namespace isopod::agent
