#include "agent/netlink.h"

#include <errno.h>
#include <sys/socket.h>

#include <cstring>
#include <vector>

namespace isopod::agent {

namespace {

constexpr size_t kBuffer = 64 * 1024;  // a dump's pages are smaller

}  // namespace

void NetlinkRequest::append(const void* data, size_t size) {
  bytes_.append(static_cast<const char*>(data), size);
  bytes_.resize((bytes_.size() + 3) & ~size_t{3});
}

void NetlinkRequest::attribute(uint16_t type, std::string_view value) {
  rtattr header{};
  header.rta_len = static_cast<uint16_t>(RTA_LENGTH(value.size()));
  header.rta_type = type;
  append(&header, sizeof(header));
  append(value.data(), value.size());
}

std::string NetlinkRequest::finish(uint32_t sequence) const {
  std::string bytes = bytes_;
  nlmsghdr header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.nlmsg_len = static_cast<uint32_t>(bytes.size());
  header.nlmsg_seq = sequence;
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

Result<Netlink> Netlink::open() {
  UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!socket) return failure(errno, "netlink", "");
  return Netlink(std::move(socket));
}

int Netlink::exchange(const NetlinkRequest& request,
                      const std::function<void(const nlmsghdr&)>& each) {
  const std::string bytes = request.finish(++sequence_);
  if (::send(socket_.get(), bytes.data(), bytes.size(), 0) < 0) return errno;
  // Aligned for the headers in it.
  std::vector<uint32_t> buffer(kBuffer / 4);
  for (;;) {
    const ssize_t size = ::recv(socket_.get(), buffer.data(), kBuffer, 0);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno;
    auto left = static_cast<unsigned>(size);
    for (auto* message = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_seq != sequence_) continue;
      if (message->nlmsg_type == NLMSG_DONE) return 0;
      if (message->nlmsg_type == NLMSG_ERROR)
        return -static_cast<nlmsgerr*>(NLMSG_DATA(message))->error;
      each(*message);
    }
  }
}

int Netlink::acknowledged(const NetlinkRequest& request) {
  return exchange(request, [](const nlmsghdr&) {});
}

int Netlink::dump(const NetlinkRequest& request, const std::function<void(const nlmsghdr&)>& each) {
  return exchange(request, each);
}

}  // namespace isopod::agent
