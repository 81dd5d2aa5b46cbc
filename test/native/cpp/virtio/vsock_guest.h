// The guest's half of the socket device, packet by packet.
#pragma once

#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>

#include "virtio/guest.h"
#include "vmm/virtio/vsock.h"

namespace isopod::vmm::virtio::test {

enum Op : uint16_t {
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kRw = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7
};

struct Packet {
  VsockHeader header{};
  std::string data;
};

struct VsockGuest {
  explicit VsockGuest(uint16_t size = 64, uint32_t room = 4096)
      : device(loop), guest(device, &loop), room_(room) {
    guest.start(kFeatureVersion1, size);
    for (uint16_t i = 0; i < size / 2; i++) provide();
    guest.kick(0);
  }

  // One more buffer to receive in: header and data apart, as Linux 6.1 has them.
  void provide() {
    const Range header = guest.buffer(44);
    const Range data = guest.buffer(room_);
    const uint16_t head = guest.add(0, {}, {header, data});
    buffers_[head] = {header, data};
  }
  static VsockHeader header(Op op, uint32_t host_port, uint32_t guest_port, uint32_t length = 0) {
    VsockHeader header{};
    header.src_cid = 3;
    header.dst_cid = 2;
    header.src_port = guest_port;
    header.dst_port = host_port;
    header.len = length;
    header.type = 1;
    header.op = op;
    header.buf_alloc = 262144;
    return header;
  }
  void send(const VsockHeader& header, const std::string& data = "") {
    std::vector<Range> pieces{guest.buffer_of(header)};
    if (!data.empty()) pieces.push_back(guest.buffer_of(data));
    guest.add(1, pieces, {});
    guest.kick(1);
    guest.used(1);
  }
  void send(Op op, uint32_t host_port, uint32_t guest_port, const std::string& data = "",
            uint32_t flags = 0) {
    VsockHeader bytes = header(op, host_port, guest_port, static_cast<uint32_t>(data.size()));
    bytes.flags = flags;
    bytes.fwd_cnt = forwarded;
    send(bytes, data);
  }
  // What the device sent; the buffers are given back to it unless `keep`.
  std::vector<Packet> packets(bool keep = false) {
    std::vector<Packet> found;
    guest.loop.settle();
    for (const Used& used : guest.used(0)) {
      const auto [header, data] = buffers_[static_cast<uint16_t>(used.id)];
      Packet packet{guest.value<VsockHeader>(header), ""};
      CHECK(used.length == 44 + packet.header.len);
      packet.data = guest.text(data, packet.header.len);
      found.push_back(packet);
      if (!keep) provide();
    }
    if (!keep && !found.empty()) guest.kick(0);
    return found;
  }
  // Ops of the packets that came, as "RESPONSE RW ...".
  std::string ops(bool keep = false) {
    static const char* names[] = {"?",        "REQUEST", "RESPONSE", "RST",
                                  "SHUTDOWN", "RW",      "UPDATE",   "CREDIT"};
    std::string all;
    for (const Packet& packet : packets(keep)) {
      last = packet;
      all += (all.empty() ? "" : " ") + std::string(names[packet.header.op & 7]);
    }
    return all;
  }
  // A connection of the guest to port 1024, which the host accepted.
  UniqueFd accepted(uint32_t guest_port) {
    UniqueFd stream;
    device.unlisten(1024);
    CHECK(device.listen(1024, [&](UniqueFd fd, uint32_t) { stream = std::move(fd); }));
    send(kRequest, 1024, guest_port);
    CHECK(ops() == "RESPONSE");
    CHECK(bool(stream));
    return stream;
  }

  TestLoop loop;
  Vsock device;
  Guest guest;
  uint32_t forwarded = 0;  // what we say we took
  Packet last;

 private:
  uint32_t room_;
  std::map<uint16_t, std::pair<Range, Range>> buffers_;
};

// The host accepts and closes at once; the packets that follow.
inline void accept_and_close(VsockGuest& vsock) {
  vsock.accepted(7).reset();
  vsock.ops();
}

inline void rlimit_at_least(rlim_t files) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < files) {
    limit.rlim_cur = std::min(files, limit.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
}

inline std::string read_now(int fd, size_t size = 1 << 20) {
  std::string bytes(size, '\0');
  const ssize_t n = ::recv(fd, bytes.data(), size, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN ? "(nothing)" : "(error)";
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

}  // namespace isopod::vmm::virtio::test
