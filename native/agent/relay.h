// One direction of a process's stdio: bytes from a descriptor to another until the first has ended,
// with back-pressure. Streams are sockets, the process's ends are pipes or a terminal's master.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"

namespace isopod::agent {

// On the control poller only. Owns both descriptors (each a duplicate of its own, where two relays
// share a file: the poller knows one handler a descriptor), which it makes non-blocking.
class Relay : public std::enable_shared_from_this<Relay> {
 public:
  // `ended` is called once, when nothing more will come: `to` is closed by then, a socket after a
  // half-close. If `to` breaks first, the rest is read and dropped: a process must not notice that
  // nobody reads.
  static std::shared_ptr<Relay> start(UniqueFd from, UniqueFd to, std::function<void()> ended);

  // Passes on what has come already, then ends.
  void finish();
  // Ends at once; `ended` is called.
  void stop();

 private:
  Relay(UniqueFd from, UniqueFd to, std::function<void()> ended);

  void readable();
  void writable();
  // False: `to` takes no more for now. A broken `to` takes everything.
  bool write();
  void wait_for(bool writable);

  UniqueFd from_;
  UniqueFd to_;
  std::function<void()> ended_;
  std::string rest_;      // read, not yet written
  size_t written_ = 0;    // of rest_
  bool waiting_ = false;  // for `to`; then `from` is not watched
  bool finishing_ = false;
};

}  // namespace isopod::agent
