// Frames of a hostile driver, and frames for it into buffers of any shape. Oracle: what reaches the
// host has a header that fits its frame and was negotiated; what reaches the guest is what was
// sent, whole.
#include "vmm/virtio/net.h"

#include <sys/socket.h>

#include "chains.h"
#include "oracle.h"

using fuzz::Input;
using namespace isopod::vmm::virtio;
using namespace isopod::vmm::virtio::test;

namespace {

void judge(const std::string& packet, uint64_t features) {
  NetHeader header;
  MUST(packet.size() >= sizeof(header) + kMinFrame);
  memcpy(&header, packet.data(), sizeof(header));
  const size_t frame = packet.size() - sizeof(header);
  const auto has = [&](unsigned feature) { return (features >> feature & 1) != 0; };
  MUST((header.flags & ~kNeedsChecksum) == 0);
  if (header.flags != 0)
    MUST(has(kNetChecksum) && size_t{header.csum_start} + header.csum_offset + 2 <= frame);
  if (header.gso_type != 0) {
    MUST(header.flags != 0 && header.gso_size != 0 && header.hdr_len <= frame);
    MUST((header.gso_type == kGsoTcp4 && has(kNetHostTso4)) ||
         (header.gso_type == kGsoTcp6 && has(kNetHostTso6)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  int pair[2];
  MUST(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
  isopod::UniqueFd wire(pair[1]);
  TestLoop loop;
  auto made = Net::create(loop, {isopod::UniqueFd(pair[0]), {2, 0, 0, 0, 0, 1}, 1500, {}, {}});
  MUST(bool(made));
  const uint64_t features =
      ((*made)->features() & (input.take<uint32_t>() | uint64_t{1} << 32)) & ~kFeatureEventIdx;
  Guest guest(**made, &loop);
  guest.start(features, 32);
  std::string buffer(70000, '\0');
  int posted = 0;  // no more than the ring has descriptors: each is looked at later
  for (int step = 0; step < 40 && !input.empty() && guest.status() == 0xf; step++) {
    switch (input.below(3)) {
      case 0: {
        auto header = input.take<NetHeader>();
        std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
        packet.append(size_t{input.byte()} << input.below(10), 'f');
        if (input.below(16) == 0) packet.resize(1 + input.below(12));
        fuzz::offer(guest, 1, packet, 1 + input.below(6), input.below(32) == 0, 64);
        break;
      }
      case 1: {
        const uint32_t room = 1 + input.take<uint16_t>() % 9000;
        if (++posted > 32) break;
        guest.add(0, {}, {guest.buffer(room)});
        guest.kick(0);
        break;
      }
      default: {
        std::string packet(12 + (size_t{input.byte()} << input.below(9)), 'r');
        memset(packet.data(), 0, std::min<size_t>(packet.size(), 12));
        (void)::send(wire.get(), packet.data(), packet.size(), MSG_DONTWAIT);
      }
    }
    loop.settle();
    for (ssize_t n; (n = ::recv(wire.get(), buffer.data(), buffer.size(), 0)) > 0;)
      judge(buffer.substr(0, static_cast<size_t>(n)), features);
  }
  if (guest.status() == 0xf) {
    // Merged buffers come in whole frames.
    const std::vector<Used> used = guest.used(0);
    for (size_t i = 0; i < used.size();) {
      const uint64_t at =
          *guest.memory.read<uint64_t>(guest.ring(0).descriptors + 16 * (used[i].id % 32));
      const auto count = guest.memory.read<uint16_t>(at + 10);
      MUST(count && *count >= 1 && i + *count <= used.size());
      if ((features >> kNetMergeBuffers & 1) == 0) MUST(*count == 1);
      i += *count;
    }
  }
  return 0;
}
