// The ttrpc server on the control stream. All of it on the control poller's thread: a call that
// waits holds no thread, it is answered when its answer comes, in any order.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "agent/frame.h"
#include "base/fd.h"
#include "base/result.h"

namespace isopod::agent {

class Server;

// One call to be answered, once; further answers, and those after the end of the connection, are
// dropped. A handle, copied freely. On the control poller only.
class Call {
 public:
  Call(std::weak_ptr<Server> server, uint32_t stream)
      : server_(std::move(server)), stream_(stream) {}

  void reply(std::string_view payload = {}) const;
  void fail(const Error& error) const;
  // Done: an empty reply.
  void answer(Status status) const;

 private:
  std::weak_ptr<Server> server_;
  uint32_t stream_;
};

class Server : public std::enable_shared_from_this<Server> {
 public:
  // `payload` is valid during the call of the handler only.
  using Handler = std::function<void(Call call, const Request& request)>;

  // `stream`, connected, is read until its end; then `ended` is called, once.
  Server(UniqueFd stream, Handler handler, std::function<void()> ended)
      : stream_(std::move(stream)), handler_(std::move(handler)), ended_(std::move(ended)) {}

  void start();
  // Calls `done` when all that was said has been sent, or cannot be.
  void flushed(std::function<void()> done);

 private:
  friend class Call;

  void ready(uint32_t events);
  void readable();
  void received(const Frame& frame);
  void respond(uint32_t stream, const std::string& response);
  // Sends what the socket takes; the rest goes when it takes more.
  void flush();
  void end();

  UniqueFd stream_;
  Handler handler_;
  std::function<void()> ended_;
  std::function<void()> flushed_;
  FrameParser parser_;
  std::set<uint32_t> calls_;  // to be answered
  uint32_t last_ = 0;         // highest stream id seen
  std::deque<std::string> unsent_;
  size_t sent_ = 0;  // of the first
  size_t unsent_bytes_ = 0;
  bool waiting_ = false;  // for the socket to take more
};

}  // namespace isopod::agent
