#include "vmm/virtio/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <thread>

#include "virtio/guest.h"

namespace isopod::vmm::virtio::test {
namespace {

constexpr uint64_t bit(unsigned feature) { return uint64_t{1} << feature; }
constexpr uint64_t kOffloads = bit(kNetChecksum) | bit(kNetGuestChecksum) | bit(kNetGuestTso4) |
                               bit(kNetGuestTso6) | bit(kNetHostTso4) | bit(kNetHostTso6);
constexpr std::array<uint8_t, 6> kMac{2, 0, 0, 1, 2, 3};

// The other end of a socket that keeps the bounds of messages stands where the tap would.
struct Nic {
  explicit Nic(uint64_t features = 0, Limits receive = {}, uint16_t size = 64) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) abort();
    wire.reset(pair[1]);
    auto made = Net::create(loop, {UniqueFd(pair[0]), kMac, 1500, receive, {}});
    if (!made) abort();
    device = std::move(*made);
    guest = std::make_unique<Guest>(*device, &loop);
    guest->start(features | kFeatureVersion1, size);
  }
  void receive_buffers(int count, uint32_t size) {
    for (int i = 0; i < count; i++) {
      const Range range = guest->buffer(size);
      buffers[guest->add(0, {}, {range})] = range;
    }
    guest->kick(0);
  }
  void put(const std::string& frame, NetHeader header = {}) {
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    bytes += frame;
    if (::send(wire.get(), bytes.data(), bytes.size(), 0) < 0) abort();
  }
  // The frames that the guest got, each of as many buffers as its header says.
  std::vector<std::string> frames() {
    loop.settle();
    std::vector<std::string> found;
    const std::vector<Used> used = guest->used(0);
    for (size_t i = 0; i < used.size();) {
      const Range first = buffers[static_cast<uint16_t>(used[i].id)];
      const auto header = guest->value<NetHeader>(first);
      std::string bytes;
      for (int left = header.num_buffers; left > 0 && i < used.size(); left--, i++)
        bytes += guest->text(buffers[static_cast<uint16_t>(used[i].id)], used[i].length);
      found.push_back(bytes.substr(12));
      if (header.num_buffers == 0) abort();
    }
    return found;
  }
  void send(const NetHeader& header, const std::string& frame) {
    guest->add(1, {guest->buffer_of(header), guest->buffer_of(frame)}, {});
    guest->kick(1);
    guest->used(1);
  }
  // "": nothing went out.
  std::string sent() {
    char bytes[70000];
    const ssize_t n = ::recv(wire.get(), bytes, sizeof(bytes), 0);
    return n < 0 ? "" : std::string(bytes, static_cast<size_t>(n));
  }
  TestLoop loop;
  UniqueFd wire;
  std::unique_ptr<Net> device;
  std::unique_ptr<Guest> guest;
  std::map<uint16_t, Range> buffers;
};

const std::string kFrame(100, 'f');

TEST("net: says what it is") {
  Nic nic;
  CHECK(nic.guest->config<uint32_t>(0) == 0x01000002);
  CHECK(nic.guest->config<uint16_t>(6) == 1);
  CHECK(nic.guest->config<uint16_t>(8) == 1);
  CHECK(nic.guest->config<uint16_t>(10) == 1500);
}

TEST("net: frames both ways, unmerged") {
  Nic nic;
  nic.receive_buffers(4, 1530);
  nic.put(kFrame);
  nic.put("another frame");  // 13 bytes: less than an Ethernet header
  nic.put(std::string(1514, 'z'));
  const auto got = nic.frames();
  REQUIRE(got.size() == 2);
  CHECK(got[0] == kFrame && got[1] == std::string(1514, 'z'));
  nic.send({}, kFrame);
  CHECK(nic.sent() == std::string(12, '\0') + kFrame);
  CHECK(nic.device->counters().received == 2 && nic.device->counters().transmitted == 1);
}

TEST("net: a frame that does not fit is dropped, not cut") {
  Nic nic;
  nic.receive_buffers(3, 64);
  nic.put(kFrame);
  nic.put(std::string(20, 's'));
  const auto got = nic.frames();
  REQUIRE(got.size() == 1);
  CHECK(got[0] == std::string(20, 's'));
  CHECK(nic.device->counters().received_dropped == 1);
  Nic large;
  large.receive_buffers(2, 2000);
  large.put(std::string(1990, 'l'));  // longer than the MTU allows
  large.put(kFrame);
  CHECK(large.frames().size() == 1);
}

TEST("net: merged buffers appear together, and a frame waits for enough of them") {
  Nic nic(bit(kNetMergeBuffers) | bit(kNetGuestTso4) | bit(kNetGuestChecksum));
  nic.receive_buffers(2, 1500);
  const std::string frame = std::string(9000, 'a') + std::string(1000, 'b');
  nic.put(frame);
  CHECK(nic.frames().empty());
  CHECK(nic.loop.watched() == 2);  // the notifiers only: the tap is not asked meanwhile
  nic.receive_buffers(6, 1500);
  auto got = nic.frames();
  REQUIRE(got.size() == 1);
  CHECK(got[0] == frame);
  // Straight into the guest's memory, where anything fits.
  nic.receive_buffers(45, 1500);
  nic.put(frame);
  nic.put(kFrame);
  nic.put(std::string(60000, 'c'));
  got = nic.frames();
  REQUIRE(got.size() == 2);
  CHECK(got[0] == frame && got[1] == kFrame);
  nic.receive_buffers(10, 1500);
  got = nic.frames();
  REQUIRE(got.size() == 1);
  CHECK(got[0] == std::string(60000, 'c'));
}

TEST("CVE-2024-11614: a checksum's place lies inside its frame") {
  Nic nic(kOffloads);
  NetHeader header{};
  header.flags = kNeedsChecksum;
  header.csum_start = 34;
  header.csum_offset = 16;
  nic.send(header, kFrame);
  CHECK(nic.sent().size() == 112);
  const std::pair<uint16_t, uint16_t> bad[] = {
      {84, 16}, {99, 0}, {100, 0}, {0xffff, 0}, {34, 0xffff}, {0xffff, 0xffff}, {13, 16}};
  for (const auto& [start, offset] : bad) {
    header.csum_start = start;
    header.csum_offset = offset;
    nic.send(header, kFrame);
    CHECK(nic.sent().empty());
  }
  header.csum_start = 82;  // the last that fits: 82 + 16 + 2 == 100
  header.csum_offset = 16;
  nic.send(header, kFrame);
  CHECK(!nic.sent().empty());
  CHECK(nic.device->counters().transmitted_dropped == 7);
  CHECK(nic.guest->status() == 0xf);
}

TEST("net: segments as negotiated, and with what they need") {
  NetHeader good{};
  good.flags = kNeedsChecksum;
  good.gso_type = kGsoTcp4;
  good.gso_size = 1448;
  good.hdr_len = 54;
  good.csum_start = 34;
  good.csum_offset = 16;
  const auto passes = [](NetHeader header, size_t frame, uint64_t features) {
    return clean_header(header, frame, features);
  };
  CHECK(passes(good, 9000, kOffloads));
  CHECK(!passes(good, 9000, kOffloads & ~bit(kNetHostTso4)));
  CHECK(!passes(good, 9000, kOffloads & ~bit(kNetChecksum)));
  const auto with = [&](auto change) {
    NetHeader header = good;
    change(header);
    return passes(header, 9000, kOffloads);
  };
  CHECK(with([](NetHeader& h) { h.gso_type = kGsoTcp6; }));
  CHECK(!with([](NetHeader& h) { h.gso_type = 3; }));                // UFO
  CHECK(!with([](NetHeader& h) { h.gso_type = 5; }));                // UDP segmentation
  CHECK(!with([](NetHeader& h) { h.gso_type = kGsoTcp4 | 0x80; }));  // ECN
  CHECK(!with([](NetHeader& h) { h.gso_size = 0; }));
  CHECK(!with([](NetHeader& h) { h.flags = 0; }));
  CHECK(!with([](NetHeader& h) { h.hdr_len = 9001; }));
  CHECK(!with([](NetHeader& h) { h.csum_start = 8982; }));
  CHECK(!passes({}, 13, kOffloads));
  CHECK(!passes({}, 70000, kOffloads));
  NetHeader plain{};
  plain.flags = 0xfe;
  plain.csum_start = plain.gso_size = plain.hdr_len = plain.num_buffers = 0xffff;
  CHECK(clean_header(plain, 100, 0));
  const NetHeader zero{};
  CHECK(memcmp(&plain, &zero, sizeof(zero)) == 0);
}

TEST("net: chains that are no frame break the rules") {
  Nic writes;
  writes.guest->add(1, {writes.guest->buffer(64)}, {writes.guest->buffer(64)});
  writes.guest->kick(1);
  CHECK(writes.guest->status() == 0x4f);
  Nic shorter;
  shorter.guest->add(1, {shorter.guest->buffer(11)}, {});
  shorter.guest->kick(1);
  CHECK(shorter.guest->status() == 0x4f);
  Nic reads;
  reads.guest->add(0, {reads.guest->buffer(64)}, {reads.guest->buffer(64)});
  reads.guest->kick(0);
  CHECK(reads.guest->status() == 0x4f);
  Nic small;
  small.guest->add(0, {}, {small.guest->buffer(8)});
  small.guest->kick(0);
  CHECK(small.guest->status() == 0x4f);
}

TEST("net: a limit is waited for") {
  Nic nic(0, {{}, {2, 0, 1000}});
  nic.receive_buffers(8, 1530);
  for (int i = 0; i < 4; i++) nic.put(kFrame);
  CHECK(nic.frames().size() == 2);
  CHECK(nic.loop.timers() == 1);
  nic.loop.advance(1'000'000'000);
  CHECK(nic.frames().size() == 2);
}

TEST("net: a tap that is taken away is a link that is down, not a busy loop") {
  Nic nic(bit(kNetStatus));
  nic.receive_buffers(2, 1530);
  nic.guest->interrupts();
  nic.wire.reset();
  nic.loop.settle();
  CHECK(nic.guest->config<uint16_t>(6) == 0);
  CHECK((nic.guest->get(0x60) & 2) != 0);
  nic.receive_buffers(2, 1530);
  CHECK(nic.guest->status() == 0xf);
}

TEST("net: a snapshot gives buffers that were held back to the ring") {
  Nic nic(bit(kNetMergeBuffers));
  nic.receive_buffers(4, 1530);
  nic.guest->transport->save();
  nic.put(kFrame);
  nic.receive_buffers(1, 1530);
  CHECK(nic.frames().size() == 1);
}

// A real tap, in a network namespace of its own: on a thread, for the rest to stay where it is.
TEST("net: over a tap of the kernel, checksums and segments included") {
  std::thread([] {
    REQUIRE(::unshare(CLONE_NEWNET) == 0);
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request{};
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    strcpy(request.ifr_name, "tap0");
    REQUIRE(::ioctl(tap.get(), TUNSETIFF, &request) == 0);
    UniqueFd control(
        ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
    request.ifr_flags = IFF_UP;
    REQUIRE(::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
    REQUIRE(::ioctl(control.get(), SIOCGIFINDEX, &request) == 0);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = request.ifr_ifindex;
    REQUIRE(::bind(control.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);

    TestLoop loop;
    auto made = Net::create(loop, {std::move(tap), kMac, 1500, {}, {}});
    REQUIRE(bool(made));
    Guest guest(**made, &loop);
    guest.start(kFeatureVersion1 | kOffloads | bit(kNetMergeBuffers));
    CHECK(guest.status() == 0xf);

    std::string frame =
        std::string("\x02\x00\x00\x01\x02\x03\x02\x00\x00\x01\x02\x04\x88\xb5", 14) +
        std::string(86, 'p');
    NetHeader header{};
    guest.add(1, {guest.buffer_of(header), guest.buffer_of(frame)}, {});
    guest.kick(1);
    CHECK(guest.used(1).size() == 1);
    CHECK((*made)->counters().transmitted == 1);
    char bytes[2000];
    bool seen = false;
    for (ssize_t n; (n = ::recv(control.get(), bytes, sizeof(bytes), 0)) > 0;)
      seen = seen || std::string(bytes, static_cast<size_t>(n)) == frame;
    CHECK(seen);

    std::vector<Range> buffers;
    for (int i = 0; i < 48; i++) {
      buffers.push_back(guest.buffer(1536));
      guest.add(0, {}, {buffers.back()});
    }
    guest.kick(0);
    CHECK(::send(control.get(), frame.data(), frame.size(), 0) == 100);
    bool received = false;
    loop.until([&] {
      for (const Used& used : guest.used(0)) {
        const Range range = buffers[used.id];
        received = received || guest.text({range.address + 12, 100}, 100) == frame;
      }
      return received;
    });
    CHECK(received);
    guest.reset();
    (*made)->reset();
  }).join();
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
