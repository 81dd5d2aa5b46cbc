// rtnetlink (RFC 3549): requests with attributes, acknowledged one by one.
//
//   nlmsghdr | family header (ifinfomsg, ifaddrmsg, rtmsg, ndmsg) | rtattr*      each padded to 4
#pragma once

#include <linux/rtnetlink.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::agent {

class NetlinkRequest {
 public:
  template <typename Header>
  NetlinkRequest(uint16_t type, uint16_t flags, const Header& header) {
    nlmsghdr message{};
    message.nlmsg_type = type;
    message.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
    append(&message, sizeof(message));
    append(&header, sizeof(header));
  }

  void attribute(uint16_t type, std::string_view value);
  void attribute(uint16_t type, uint32_t value) {
    attribute(type, std::string_view(reinterpret_cast<const char*>(&value), sizeof(value)));
  }
  // With its length in place.
  std::string finish(uint32_t sequence) const;

 private:
  void append(const void* data, size_t size);

  std::string bytes_;
};

class Netlink {
 public:
  static Result<Netlink> open();

  // 0, or the errno that the kernel answers.
  int acknowledged(const NetlinkRequest& request);
  // Calls `each` with every message of a dump.
  int dump(const NetlinkRequest& request, const std::function<void(const nlmsghdr&)>& each);

 private:
  explicit Netlink(UniqueFd socket) : socket_(std::move(socket)) {}
  int exchange(const NetlinkRequest& request, const std::function<void(const nlmsghdr&)>& each);

  UniqueFd socket_;
  uint32_t sequence_ = 0;
};

}  // namespace isopod::agent
