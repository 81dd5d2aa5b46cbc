#include "core/rtnetlink.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace isopod::core {

namespace {

// A dump's messages are not longer than this (NLMSG_GOODSIZE is a page, up to 32 KiB by request).
constexpr size_t kReceive = 65536;

size_t aligned(size_t size) { return (size + 3) & ~size_t{3}; }

}  // namespace

void NetlinkMessage::append(const void* data, size_t size) {
  const auto* from = static_cast<const uint8_t*>(data);
  bytes_.insert(bytes_.end(), from, from + size);
  bytes_.resize(aligned(bytes_.size()));
}

NetlinkMessage& NetlinkMessage::put(uint16_t type, std::string_view payload) {
  nlattr header{};
  header.nla_type = type;
  header.nla_len = static_cast<uint16_t>(sizeof header + payload.size());
  append(&header, sizeof header);
  append(payload.data(), payload.size());
  return *this;
}

NetlinkMessage& NetlinkMessage::nest(uint16_t type, const std::function<void()>& fill) {
  const size_t at = bytes_.size();
  put(static_cast<uint16_t>(type | NLA_F_NESTED), {});
  fill();
  const auto length = static_cast<uint16_t>(bytes_.size() - at);
  memcpy(&bytes_[at], &length, sizeof length);
  return *this;
}

const std::vector<uint8_t>& NetlinkMessage::finish(uint32_t sequence) {
  nlmsghdr header;
  memcpy(&header, bytes_.data(), sizeof header);
  header.nlmsg_len = static_cast<uint32_t>(bytes_.size());
  header.nlmsg_seq = sequence;
  memcpy(bytes_.data(), &header, sizeof header);
  return bytes_;
}

Attributes attributes_of(const uint8_t* begin, size_t size) {
  Attributes found;
  while (size >= sizeof(nlattr)) {
    nlattr header;
    memcpy(&header, begin, sizeof header);
    if (header.nla_len < sizeof header || header.nla_len > size) break;
    const auto type = static_cast<uint16_t>(header.nla_type & NLA_TYPE_MASK);
    found[type] = {reinterpret_cast<const char*>(begin) + sizeof header,
                   header.nla_len - sizeof header};
    const size_t step = std::min(aligned(header.nla_len), size);
    begin += step;
    size -= step;
  }
  return found;
}

Result<RtNetlink> RtNetlink::open() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return failure(errno, "open", "rtnetlink socket");
  return RtNetlink(std::move(fd));
}

int RtNetlink::request(NetlinkMessage& message) {
  return transact(message, [](uint16_t, const uint8_t*, size_t) {});
}

int RtNetlink::dump(NetlinkMessage& message,
                    const std::function<void(uint16_t, const uint8_t*, size_t)>& each) {
  return transact(message, each);
}

// Until the acknowledgement or the end of the dump, whichever the request brings.
int RtNetlink::transact(NetlinkMessage& message,
                        const std::function<void(uint16_t, const uint8_t*, size_t)>& each) {
  const std::vector<uint8_t>& bytes = message.finish(++sequence_);
  if (::send(fd_.get(), bytes.data(), bytes.size(), 0) < 0) return -errno;
  std::vector<uint8_t> buffer(kReceive);
  for (;;) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -errno;
    size_t left = static_cast<size_t>(got);
    const uint8_t* at = buffer.data();
    while (left >= sizeof(nlmsghdr)) {
      nlmsghdr header;
      memcpy(&header, at, sizeof header);
      if (header.nlmsg_len < sizeof header || header.nlmsg_len > left) return -EBADMSG;
      if (header.nlmsg_seq == sequence_) {
        if (header.nlmsg_type == NLMSG_DONE) return 0;
        if (header.nlmsg_type == NLMSG_ERROR) {
          nlmsgerr error{};
          memcpy(&error, at + sizeof header,
                 std::min(sizeof error, header.nlmsg_len - sizeof header));
          return error.error;
        }
        each(header.nlmsg_type, at + sizeof header, header.nlmsg_len - sizeof header);
      }
      const size_t step = std::min(aligned(header.nlmsg_len), left);
      at += step;
      left -= step;
    }
  }
}

}  // namespace isopod::core
