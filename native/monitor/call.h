// One unary ttrpc call at a time over a blocking socket: src/ttrpc/frame.ts describes the frames.
#pragma once

#include "base/fd.h"
#include "monitor/place.h"

namespace isopod::monitor {

constexpr uint32_t kNotFound = 5;
constexpr uint32_t kUnavailable = 14;  // also: no connection, no answer in time

class Caller {
 public:
  // Every send and receive gives up after `timeout_ms`.
  Caller(const SocketText& socket, int timeout_ms);

  // Returns the status code; `response` points into a buffer that the next call overwrites.
  uint32_t call(std::string_view service, std::string_view method, std::string_view request,
                std::string_view* response);

 private:
  bool exchange(std::string_view frame);
  bool receive(char* to, size_t size);

  UniqueFd socket_;
  uint32_t stream_ = 1;
  size_t size_ = 0;
  char answer_[16 << 10];
};

}  // namespace isopod::monitor
