// rtnetlink, as much of it as a pod's link needs: one request and its acknowledgement, or one dump.
//
// A message is nlmsghdr, a fixed struct of the request's kind, then attributes: {u16 length, u16
// type, payload padded to 4}. Nested attributes are attributes in a payload. See rtnetlink(7).
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

class NetlinkMessage {
 public:
  template <typename Fixed>
  NetlinkMessage(uint16_t type, uint16_t flags, const Fixed& fixed) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    append(&header, sizeof header);
    append(&fixed, sizeof fixed);
  }
  NetlinkMessage& put(uint16_t type, std::string_view payload);
  template <typename T>
  NetlinkMessage& value(uint16_t type, const T& payload) {
    return put(type, {reinterpret_cast<const char*>(&payload), sizeof payload});
  }
  // With the zero, as the kernel's NLA_NUL_STRING has it.
  NetlinkMessage& text(uint16_t type, const std::string& payload) {
    return put(type, {payload.c_str(), payload.size() + 1});
  }
  // An attribute that holds those that `fill` puts.
  NetlinkMessage& nest(uint16_t type, const std::function<void()>& fill);
  // Complete: length and sequence number written.
  const std::vector<uint8_t>& finish(uint32_t sequence);

 private:
  void append(const void* data, size_t size);
  std::vector<uint8_t> bytes_;
};

// Attribute type -> payload; the views live as long as the message.
using Attributes = std::map<uint16_t, std::string_view>;
Attributes attributes_of(const uint8_t* begin, size_t size);
// A fixed-size payload; the default where it is absent or shorter.
template <typename T>
T attribute(const Attributes& attributes, uint16_t type) {
  T value{};
  const auto found = attributes.find(type);
  if (found != attributes.end() && found->second.size() >= sizeof value)
    found->second.copy(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

// In the network namespace of the thread that opens it.
class RtNetlink {
 public:
  static Result<RtNetlink> open();
  // 0 or -errno of the kernel's acknowledgement.
  int request(NetlinkMessage& message);
  // Calls `each` with every message of a dump (its fixed struct and attributes). 0 or -errno.
  int dump(NetlinkMessage& message,
           const std::function<void(uint16_t type, const uint8_t* body, size_t size)>& each);

 private:
  explicit RtNetlink(UniqueFd fd) : fd_(std::move(fd)) {}
  int transact(NetlinkMessage& message,
               const std::function<void(uint16_t, const uint8_t*, size_t)>& each);
  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

}  // namespace isopod::core
