// The pump: one thread that moves containers' output, so that it never passes through JavaScript (R12).
//
// A pump is one descriptor that is read until its end and a sink: a log file, another descriptor, or a
// bounded buffer. Ends are attached and detached by handle from any thread; the bytes stay here.
//
// When has a FIFO ended? read() returns 0 also while no writer has come yet; only EPOLLHUP says that the
// last writer has gone. A pty master says the same by EIO.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/log_file.h"

namespace isopod::core {

// A sink gets what a pump reads. Called on the pump's thread only.
class Sink {
 public:
  virtual ~Sink() = default;
  // False: not now (back-pressure); the pump waits until `blocked_on()` is writable, then offers the rest.
  virtual size_t offer(const char* data, size_t size) = 0;
  // Descriptor to wait for when offer() took less than all; -1: never blocks.
  virtual int blocked_on() const { return -1; }
  virtual void finish() {}
  virtual std::vector<uint8_t> take() { return {}; }
};

std::unique_ptr<Sink> log_sink(std::shared_ptr<LogFile> log, Stream stream);
// Owns `to`, made non-blocking. A reader that is gone (EPIPE) turns the sink into a drain: the writer at
// the other end must not notice.
std::unique_ptr<Sink> descriptor_sink(UniqueFd to);
// Keeps the first `limit` bytes and drops the rest.
std::unique_ptr<Sink> collecting_sink(size_t limit);

class Pump {
 public:
  using Ended = std::function<void(std::vector<uint8_t>)>;

  // The thread starts with the first pump and lives as long as the process.
  static Pump& instance();

  // Reads `from` (made non-blocking) into `sink` until its end or stop(). Returns the pump's handle.
  Result<int> start(UniqueFd from, std::unique_ptr<Sink> sink);
  // Calls `ended` once, on the pump's thread, when the pump has ended: with the bytes of a collecting sink.
  // At once if it has already; a handle is forgotten after that.
  void on_end(int handle, Ended ended);
  // Passes on what is readable without waiting, then ends the pump.
  void stop(int handle);

 private:
  struct State;
  Pump();
  std::unique_ptr<State> state_;
};

}  // namespace isopod::core
