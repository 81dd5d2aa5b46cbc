// Packets of a hostile guest and a host that reads, writes and closes. Oracle: credit is kept, the
// number of connections is bounded, and a reset leaves neither connection, timer nor descriptor.
#include "chains.h"
#include "oracle.h"
#include "virtio/vsock_guest.h"

using fuzz::Input;
using isopod::UniqueFd;
using isopod::vmm::virtio::VsockHeader;
using namespace isopod::vmm::virtio::test;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  VsockGuest vsock(32);
  std::vector<UniqueFd> streams;
  (void)vsock.device.listen(1, [&](UniqueFd fd, uint32_t) { streams.push_back(std::move(fd)); });
  const auto stream = [&]() -> UniqueFd* {
    return streams.empty() ? nullptr : &streams[input.below(256) % streams.size()];
  };
  for (int step = 0; step < 100 && !input.empty(); step++) {
    switch (input.below(10)) {
      default: {
        VsockHeader header =
            VsockGuest::header(static_cast<Op>(input.below(9)), input.below(3), input.below(4));
        header.flags = input.below(4);
        header.buf_alloc = input.take<uint16_t>();
        header.fwd_cnt = input.byte();
        const std::string payload(size_t{input.byte()} * (input.below(8) == 0 ? 256 : 1), 'p');
        header.len = static_cast<uint32_t>(payload.size());
        const uint8_t twist = input.byte();
        if (twist == 1) header.len = input.take<uint32_t>();
        if (twist == 2) header.src_cid = input.byte();
        if (twist == 3) header.dst_cid = input.byte();
        if (twist == 4) header.type = input.byte();
        if (twist == 5) header.fwd_cnt = input.take<uint32_t>();
        if (twist == 6) header.buf_alloc = input.take<uint32_t>();
        std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
        packet += payload;
        if (twist == 7) packet.resize(input.below(44));
        if (packet.empty()) packet = "x";
        fuzz::offer(vsock.guest, 1, packet, 1 + input.below(4), 0, 0);
        break;
      }
      case 4:
        (void)vsock.packets(input.below(8) == 0);
        break;
      case 5:
        if (UniqueFd* one = stream()) {
          const std::string bytes(size_t{input.byte()} * 64, 'h');
          [[maybe_unused]] const ssize_t n =
              ::send(one->get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        break;
      case 6:
        if (UniqueFd* one = stream()) (void)read_now(one->get(), 65536);
        break;
      case 7:
        if (UniqueFd* one = stream()) {
          if (input.below(2) == 0)
            one->reset();
          else
            ::shutdown(one->get(), static_cast<int>(input.below(3)));
        }
        break;
      case 8:
        vsock.device.connect(input.below(4), [&](isopod::Result<UniqueFd> got) {
          if (got) streams.push_back(std::move(*got));
        });
        break;
      case 9:
        vsock.loop.advance(uint64_t{input.byte()} << 24);
    }
    vsock.loop.settle();
    MUST(vsock.device.connections() <= isopod::vmm::virtio::Vsock::kMaxConnections);
    if (vsock.guest.status() != 0xf) break;
  }
  vsock.guest.reset();
  MUST(vsock.device.connections() == 0);
  MUST(vsock.loop.timers() == 0);
  MUST(vsock.loop.watched() == 0);
  return 0;
}
