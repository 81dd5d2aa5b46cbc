// ttrpc frames, and the two messages that they carry.
//
//   0        4            8      9       10
//   | length | stream id  | type | flags | data[length] |      integers big-endian
//
// type 1 is a request, 2 a response, 3 data of a streaming call; others are ignored. `length` is at
// most 4 MiB: a larger frame is drained, not stored, and its stream is answered RESOURCE_EXHAUSTED.
// A client opens streams with odd, strictly increasing ids. The agent's calls are all unary:
// a request with flags 0, one response with flags 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace isopod::agent {

constexpr size_t kFrameHeader = 10;
constexpr uint32_t kMaxData = 4 << 20;

enum FrameType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

struct Frame {
  uint32_t stream = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
  std::string data;
  bool oversize = false;  // then data is empty
};

// Cuts a byte stream into frames, whatever pieces it comes in. Holds at most one frame.
class FrameParser {
 public:
  void push(const char* data, size_t size, const std::function<void(Frame&)>& got);

 private:
  unsigned char header_[kFrameHeader];
  size_t header_held_ = 0;
  Frame frame_;
  size_t wanted_ = 0;     // of the frame's data
  uint64_t discard_ = 0;  // of an oversize frame
};

std::string encode_frame(uint32_t stream, uint8_t type, std::string_view data);

// ttrpc.Request; timeout and metadata are of no use here.
struct Request {
  std::string service;
  std::string method;
  std::string_view payload;  // in the bytes it was decoded from
};
bool decode(std::string_view bytes, Request& request);

// ttrpc.Response of a call that succeeded, of one that did not.
std::string encode_reply(std::string_view payload);
std::string encode_failure(const Error& error);

}  // namespace isopod::agent
