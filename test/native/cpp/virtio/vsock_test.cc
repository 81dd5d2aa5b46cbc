#include <poll.h>

#include "virtio/vsock_guest.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

TEST("vsock: the guest connects to a listener; bytes both ways") {
  VsockGuest vsock;
  CHECK(vsock.guest.config<uint64_t>(0) == 3);
  uint32_t from = 0;
  UniqueFd stream;
  CHECK(vsock.device.listen(1024, [&](UniqueFd fd, uint32_t port) {
    stream = std::move(fd);
    from = port;
  }));
  CHECK(!vsock.device.listen(1024, [](UniqueFd, uint32_t) {}));
  vsock.send(kRequest, 1024, 77);
  const auto packets = vsock.packets();
  REQUIRE(packets.size() == 1);
  const VsockHeader& response = packets[0].header;
  CHECK(response.op == kResponse && response.type == 1);
  CHECK(response.src_cid == 2 && response.dst_cid == 3);
  CHECK(response.src_port == 1024 && response.dst_port == 77);
  CHECK(response.buf_alloc == kVsockBuffer && response.fwd_cnt == 0);
  CHECK(from == 77);
  vsock.send(kRw, 1024, 77, "hello");
  CHECK(read_now(stream.get()) == "hello");
  CHECK(::write(stream.get(), "world", 5) == 5);
  CHECK(vsock.ops() == "RW");
  CHECK(vsock.last.data == "world");
  CHECK(vsock.last.header.fwd_cnt == 5);
}

TEST("vsock: a port that nobody listens at refuses, as do other hosts and types") {
  VsockGuest vsock;
  vsock.send(kRequest, 5, 6);
  CHECK(vsock.ops() == "RST");
  CHECK(vsock.last.header.src_port == 5 && vsock.last.header.dst_port == 6);
  VsockHeader elsewhere = VsockGuest::header(kRequest, 5, 6);
  elsewhere.dst_cid = 9;
  vsock.send(elsewhere);
  CHECK(vsock.ops() == "RST");
  CHECK(vsock.last.header.src_cid == 9);
  VsockHeader datagram = VsockGuest::header(kRw, 5, 6);
  datagram.type = 3;
  vsock.send(datagram);
  CHECK(vsock.ops() == "RST");
  vsock.send(kReset, 5, 6);  // no answer, or two devices answer each other for ever
  CHECK(vsock.ops().empty());
  VsockHeader forged = VsockGuest::header(kRequest, 5, 6);
  forged.src_cid = 4;
  vsock.send(forged);
  CHECK(vsock.ops().empty());
  CHECK(vsock.device.connections() == 0);
}

TEST("vsock: the host connects; refused, unanswered, and without a driver") {
  VsockGuest vsock;
  int err = 0;
  UniqueFd stream;
  const auto done = [&](Result<UniqueFd> result) {
    if (result)
      stream = std::move(*result);
    else
      err = result.error().err;
  };
  vsock.device.connect(50, done);
  CHECK(vsock.ops() == "REQUEST");
  CHECK(vsock.last.header.dst_port == 50);
  const uint32_t port = vsock.last.header.src_port;
  vsock.send(kResponse, port, 50);
  REQUIRE(bool(stream));
  CHECK(::write(stream.get(), "x", 1) == 1);
  CHECK(vsock.ops() == "RW");
  CHECK(vsock.loop.timers() == 0);

  vsock.device.connect(51, done);
  CHECK(vsock.ops() == "REQUEST");
  CHECK(vsock.last.header.src_port != port);
  vsock.send(kReset, vsock.last.header.src_port, 51);
  CHECK(err == ECONNREFUSED);

  vsock.device.connect(52, done);
  CHECK(vsock.ops() == "REQUEST");
  vsock.loop.advance(3 * kSecond);
  CHECK(err == ETIMEDOUT);
  CHECK(vsock.ops() == "RST");

  vsock.device.connect(53, done);
  vsock.guest.reset();
  CHECK(err == ECONNRESET);
  vsock.device.connect(53, done);
  CHECK(err == ENOTCONN);
  CHECK(vsock.device.connections() == 0);
  CHECK(read_now(stream.get()).empty());
}

TEST("vsock: half-close by the host") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  CHECK(::write(stream.get(), "last", 4) == 4);
  ::shutdown(stream.get(), SHUT_WR);
  CHECK(vsock.ops() == "RW SHUTDOWN");
  CHECK(vsock.last.header.flags == VIRTIO_VSOCK_SHUTDOWN_SEND);
  vsock.send(kRw, 1024, 7, "still");
  CHECK(read_now(stream.get()) == "still");
  stream.reset();
  CHECK(vsock.ops() == "SHUTDOWN");
  CHECK(vsock.last.header.flags == 3);
  vsock.send(kReset, 1024, 7);
  CHECK(vsock.device.connections() == 0);
  CHECK(vsock.loop.timers() == 0);
}

TEST("vsock: half-close by the guest") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  vsock.send(kShutdown, 1024, 7, "", 0);  // closes nothing
  vsock.send(kRw, 1024, 7, "last");
  vsock.send(kShutdown, 1024, 7, "", VIRTIO_VSOCK_SHUTDOWN_SEND);
  CHECK(read_now(stream.get()) == "last");
  CHECK(read_now(stream.get()).empty());  // end of file
  CHECK(::write(stream.get(), "answer", 6) == 6);
  CHECK(vsock.ops() == "RW");
  vsock.send(kShutdown, 1024, 7, "", VIRTIO_VSOCK_SHUTDOWN_RCV);
  CHECK(vsock.ops() == "RST");  // both sides are shut: the guest waits for this
  CHECK(vsock.device.connections() == 0);
  CHECK(::send(stream.get(), "x", 1, MSG_NOSIGNAL) < 0);
}

TEST("vsock: a guest that receives no more makes the host's writes fail") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  vsock.send(kShutdown, 1024, 7, "", VIRTIO_VSOCK_SHUTDOWN_RCV);
  CHECK(::send(stream.get(), "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
  vsock.send(kRw, 1024, 7, "more");
  CHECK(read_now(stream.get()) == "more");
  stream.reset();
  CHECK(vsock.ops() == "SHUTDOWN");
  CHECK(vsock.last.header.flags == 3);
}

TEST("vsock: what the guest had sent reaches the host after it closed") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  const std::string block(65536, 'b');
  size_t sent = 0;
  // More than the socket takes, no more than the credit: the rest is in the backlog.
  for (int i = 0; i < 4; i++) {
    vsock.send(kRw, 1024, 7, block);
    sent += block.size();
  }
  vsock.send(kShutdown, 1024, 7, "", 3);
  CHECK(vsock.ops().find("RST") != std::string::npos);
  CHECK(vsock.device.connections() == 1);
  // The same ports may be used again at once.
  UniqueFd second = vsock.accepted(7);
  size_t got = 0;
  for (std::string part; got < sent; got += part.size()) {
    part = read_now(stream.get());
    REQUIRE(!part.empty() && part[0] == 'b');
    vsock.loop.settle();
  }
  CHECK(got == sent);
  CHECK(read_now(stream.get()).empty());
  CHECK(vsock.device.connections() == 1);
}

TEST("vsock: a host that reads nothing stops the guest by credit") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  const std::string block(32768, 'b');
  uint32_t sent = 0, forwarded = 0, allowed = kVsockBuffer;
  const auto listen = [&] {
    for (const Packet& packet : vsock.packets()) {
      forwarded = packet.header.fwd_cnt;
      allowed = packet.header.buf_alloc;
    }
  };
  while (sent - forwarded + block.size() <= allowed) {
    vsock.send(kRw, 1024, 7, block);
    sent += static_cast<uint32_t>(block.size());
    listen();
  }
  CHECK(vsock.device.connections() == 1);
  // It says what is free as soon as the host reads.
  size_t got = 0;
  while (got < sent) {
    got += read_now(stream.get()).size();
    vsock.loop.settle();
    listen();
  }
  CHECK(sent - forwarded <= kVsockBuffer / 2);
}

TEST("vsock: a guest that overruns its credit is reset") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  std::string ops;
  for (int i = 0; i < 64 && ops.find("RST") == std::string::npos; i++) {
    vsock.send(kRw, 1024, 7, std::string(65536, 'b'));
    ops = vsock.ops();
  }
  CHECK(ops.find("RST") != std::string::npos);
  vsock.send(kRw, 1024, 7, "x");
  CHECK(vsock.ops() == "RST");
}

TEST("vsock: the guest's credit is never exceeded, and asked for once") {
  VsockGuest vsock;
  UniqueFd stream;
  CHECK(vsock.device.listen(1024, [&](UniqueFd fd, uint32_t) { stream = std::move(fd); }));
  VsockHeader request = VsockGuest::header(kRequest, 1024, 7);
  request.buf_alloc = 100;
  vsock.send(request);
  CHECK(vsock.ops() == "RESPONSE");
  CHECK(::write(stream.get(), std::string(250, 'd').data(), 250) == 250);
  CHECK(vsock.ops() == "RW CREDIT");
  vsock.loop.settle();
  CHECK(vsock.ops().empty());
  VsockHeader update = VsockGuest::header(kCreditUpdate, 1024, 7);
  update.buf_alloc = 100;
  update.fwd_cnt = 60;
  vsock.send(update);
  const auto packets = vsock.packets();
  REQUIRE(packets.size() == 2);
  CHECK(packets[0].data.size() == 60);
  // Less than nothing: claims to have forwarded what it never got, or shrinks its buffer.
  update.fwd_cnt = 5000;
  vsock.send(update);
  CHECK(vsock.ops() == "CREDIT");
  update.fwd_cnt = 160;
  update.buf_alloc = 0;
  vsock.send(update);
  CHECK(vsock.ops() == "CREDIT");
  update.buf_alloc = 262144;
  vsock.send(update);
  CHECK(vsock.ops() == "RW");
  CHECK(vsock.last.data.size() == 90);
}

TEST("vsock: 10 MB each way, now and then without buffers") {
  VsockGuest vsock(64, 8192);
  UniqueFd stream = vsock.accepted(7);
  const size_t total = 10 << 20;
  std::string block(60000, '\0');
  size_t sent = 0, got = 0;
  uint32_t seen = 0;
  for (size_t i = 0; i < block.size(); i++) block[i] = static_cast<char>(i % 251);
  while (got < total) {
    if (sent < total && sent - seen + block.size() <= kVsockBuffer) {
      vsock.send(kRw, 1024, 7, block);
      sent += block.size();
    }
    const std::string part = read_now(stream.get(), 1 << 16);
    if (part != "(nothing)") got += part.size();
    for (const Packet& packet : vsock.packets()) seen = packet.header.fwd_cnt;
    if (sent >= total && got == sent) break;
    vsock.guest.reset_buffers();
  }
  CHECK(got == sent);
  size_t received = 0, written = 0;
  while (received < total) {
    if (written < total) {
      const ssize_t n = ::send(stream.get(), block.data(), block.size(), MSG_DONTWAIT);
      if (n > 0) written += static_cast<size_t>(n);
    }
    // Now and then all buffers are kept back.
    const bool keep = (received / 100000) % 7 == 0;
    size_t before = received;
    std::vector<Packet> packets = vsock.packets(keep);
    for (const Packet& packet : packets) received += packet.data.size();
    if (keep)
      for (size_t i = 0; i < packets.size(); i++) vsock.provide();
    vsock.forwarded = static_cast<uint32_t>(received);
    if (received != before) vsock.send(kCreditUpdate, 1024, 7);
    vsock.guest.kick(0);
    vsock.guest.reset_buffers();
  }
  CHECK(received >= total);
}

TEST("vsock: packets that are none break the rules") {
  VsockGuest shorter;
  shorter.guest.add(1, {shorter.guest.buffer(43)}, {});
  shorter.guest.kick(1);
  CHECK(shorter.guest.status() == 0x4f);
  VsockGuest roomless(8);
  roomless.send(kRequest, 9, 9);
  CHECK(roomless.ops(true) == "RST");
  for (int i = 0; i < 3; i++) {
    roomless.send(kRequest, 9, 9);
    CHECK(roomless.ops(true) == "RST");
  }
  roomless.guest.add(0, {}, {roomless.guest.buffer(44)});  // a buffer for no data
  roomless.send(kRequest, 9, 9);
  CHECK(roomless.guest.status() == 0x4f);
}

TEST("CVE-2019-18960: a packet's length never reaches past its buffers") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  VsockHeader header = VsockGuest::header(kRw, 1024, 7, 65536);
  // The payload lies at the very end of memory.
  const Range head = vsock.guest.buffer_of(header);
  vsock.guest.add(1, {head, {kMinMemory - 16, 16}}, {});
  vsock.guest.kick(1);
  CHECK(read_now(stream.get()) == "(nothing)" || read_now(stream.get()).empty());
  CHECK(vsock.guest.status() == 0x4f);
}

TEST("vsock: at most 1023 connections") {
  VsockGuest vsock;
  std::vector<UniqueFd> streams;
  CHECK(vsock.device.listen(9, [&](UniqueFd fd, uint32_t) { streams.push_back(std::move(fd)); }));
  rlimit_at_least(4096);
  for (uint32_t port = 1; port <= 1023; port++) {
    vsock.send(kRequest, 9, port);
    CHECK(vsock.ops() == "RESPONSE");
  }
  vsock.send(kRequest, 9, 5000);
  CHECK(vsock.ops() == "RST");
  int err = 0;
  vsock.device.connect(1, [&](Result<UniqueFd> result) { err = result ? 0 : result.error().err; });
  CHECK(err == EMFILE);
  CHECK(vsock.device.connections() == 1023);
  vsock.send(kReset, 9, 1);
  vsock.send(kRequest, 9, 5000);
  CHECK(vsock.ops() == "RESPONSE");
}

TEST("vsock: without buffers the guest's packets wait, and memory does not grow") {
  VsockGuest vsock(128);
  while (!vsock.ops(true).empty() || vsock.guest.ring(0).used_index < 64) {
    for (int i = 0; i < 16; i++) vsock.send(kRequest, 5, 6);
    if (vsock.guest.ring(0).used_index == 64) break;
  }
  uint16_t before = vsock.guest.ring(1).used_index;
  for (int i = 0; i < 120; i++) vsock.send(kRequest, 5, 6);
  for (int i = 0; i < 120; i++) vsock.send(kRequest, 5, 6);
  const auto taken = static_cast<uint16_t>(vsock.guest.ring(1).used_index - before);
  CHECK(taken >= 100 && taken < 240);
  // With buffers it goes on where it was, without another notification of the guest's.
  for (int i = 0; i < 64; i++) vsock.provide();
  vsock.guest.kick(0);
  vsock.guest.used(1);
  CHECK(static_cast<uint16_t>(vsock.guest.ring(1).used_index - before) > taken);
}

TEST("vsock: connections that come and go leave nothing behind") {
  VsockGuest vsock;
  CHECK(vsock.device.listen(9, [](UniqueFd, uint32_t) {}));
  for (uint32_t port = 1; port < 300; port++) {
    vsock.send(kRequest, 9, port);  // the host hangs up at once
    vsock.ops();
    vsock.send(kShutdown, 9, port, "", 3);
    vsock.ops();
  }
  CHECK(vsock.device.connections() == 0);
  CHECK(vsock.loop.timers() == 0);
}

TEST("vsock: a guest that does not answer a shutdown is reset after two seconds") {
  VsockGuest vsock;
  accept_and_close(vsock);
  CHECK(vsock.last.header.op == kShutdown && vsock.last.header.flags == 3);
  vsock.loop.advance(3 * kSecond);
  CHECK(vsock.ops() == "RST");
  CHECK(vsock.device.connections() == 0);
}

TEST("vsock: a restored guest is told that its connections are gone") {
  VsockGuest vsock;
  UniqueFd stream = vsock.accepted(7);
  const std::vector<uint8_t> state = vsock.guest.transport->save();
  Vsock fresh(vsock.loop);
  auto made = Transport::create(vsock.guest.memory, vsock.loop, fresh);
  REQUIRE(bool(made));
  vsock.guest.transport = std::move(*made);
  REQUIRE(vsock.guest.transport->load(state));
  const Range event = vsock.guest.buffer(4);
  *vsock.guest.at(event.address, 1) = 9;
  vsock.guest.add(2, {}, {event});
  vsock.guest.kick(2);
  const auto used = vsock.guest.used(2);
  REQUIRE(used.size() == 1);
  CHECK(used[0].length == 4 && vsock.guest.value<uint32_t>(event) == 0);
  vsock.guest.transport.reset();
}

TEST("vsock: a host that hung up does not keep the loop busy") {
  VsockGuest vsock;
  UniqueFd stream;
  CHECK(vsock.device.listen(1024, [&](UniqueFd fd, uint32_t) { stream = std::move(fd); }));
  VsockHeader request = VsockGuest::header(kRequest, 1024, 7);
  request.buf_alloc = 1;  // no room for what the host wrote
  vsock.send(request);
  vsock.ops();
  CHECK(::write(stream.get(), "abc", 3) == 3);
  stream.reset();
  vsock.loop.settle();  // ends, or it is a busy loop
  CHECK(vsock.ops() == "RW CREDIT");
  for (int i = 0; i < 3; i++) vsock.loop.settle();
  CHECK(vsock.device.connections() == 1);
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
