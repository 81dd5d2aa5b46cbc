#include "agent/frame.h"

#include <algorithm>
#include <cstring>

#include "agent/wire.h"
#include "core/error_text.h"

namespace isopod::agent {

namespace {

constexpr char kFailure[] = "isopod.agent.v1.Failure";

uint32_t big_endian(const unsigned char* at) {
  return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

void append_big_endian(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

// google.rpc.Code of an errdefs word.
uint64_t code_number(const char* word) {
  static constexpr const char* kWords[] = {
      "OK",
      "CANCELLED",
      "UNKNOWN",
      "INVALID_ARGUMENT",
      "DEADLINE_EXCEEDED",
      "NOT_FOUND",
      "ALREADY_EXISTS",
      "PERMISSION_DENIED",
      "RESOURCE_EXHAUSTED",
      "FAILED_PRECONDITION",
      "ABORTED",
      "OUT_OF_RANGE",
      "UNIMPLEMENTED",
      "INTERNAL",
      "UNAVAILABLE",
      "DATA_LOSS",
      "UNAUTHENTICATED",
  };
  for (uint64_t i = 1; i < std::size(kWords); i++)
    if (std::strcmp(kWords[i], word) == 0) return i;
  return 2;
}

}  // namespace

void FrameParser::push(const char* data, size_t size, const std::function<void(Frame&)>& got) {
  while (size > 0) {
    const auto dropped = static_cast<size_t>(std::min<uint64_t>(discard_, size));
    discard_ -= dropped;
    data += dropped;
    size -= dropped;
    if (size == 0) return;
    if (header_held_ < kFrameHeader) {
      const size_t taken = std::min(kFrameHeader - header_held_, size);
      std::memcpy(header_ + header_held_, data, taken);
      header_held_ += taken;
      data += taken;
      size -= taken;
      if (header_held_ < kFrameHeader) return;
      frame_ = Frame();
      frame_.stream = big_endian(header_ + 4);
      frame_.type = header_[8];
      frame_.flags = header_[9];
      wanted_ = big_endian(header_);
      if (wanted_ > kMaxData) {
        discard_ = wanted_;
        wanted_ = 0;
        frame_.oversize = true;
      }
    }
    const size_t taken = std::min(wanted_, size);
    frame_.data.append(data, taken);
    wanted_ -= taken;
    data += taken;
    size -= taken;
    if (wanted_ > 0) return;
    header_held_ = 0;
    got(frame_);
  }
}

std::string encode_frame(uint32_t stream, uint8_t type, std::string_view data) {
  std::string out;
  out.reserve(kFrameHeader + data.size());
  append_big_endian(out, static_cast<uint32_t>(data.size()));
  append_big_endian(out, stream);
  out.push_back(static_cast<char>(type));
  out.push_back(0);
  out.append(data);
  return out;
}

bool decode(std::string_view bytes, Request& request) {
  Reader in(bytes);
  while (in.next()) switch (in.field()) {
      case 1:
        request.service = in.text();
        break;
      case 2:
        request.method = in.text();
        break;
      case 3:
        request.payload = in.bytes();
        break;
      default:
        break;
    }
  return in.ok();
}

std::string encode_reply(std::string_view payload) {
  Writer out;
  out.bytes(2, payload);
  return out.take();
}

std::string encode_failure(const Error& error) {
  Writer details;
  details.bytes(1, error.step);
  details.bytes(2, core::errno_name(error.err));
  details.bytes(3, error.target.empty() ? error.subject : error.target);
  Writer any;
  any.bytes(1, kFailure);
  any.bytes(2, details.str());
  Writer status;
  status.number(1, code_number(core::code_of(error)));
  status.bytes(2, core::text_of(error));
  status.element(3, any.str());
  Writer out;
  out.element(1, status.str());
  return out.take();
}

}  // namespace isopod::agent
