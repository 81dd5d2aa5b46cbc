// Register accesses in any order, with rings in memory that change meanwhile. Oracle: status has
// only values that the specification knows, a running device has the queues it was started with,
// what is saved can be loaded.
#include "chains.h"
#include "oracle.h"
#include "virtio/echo.h"

using fuzz::Input;
using isopod::vmm::virtio::test::Echo;
using isopod::vmm::virtio::test::Guest;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  Echo device;
  Echo twin;
  Guest guest(device);
  Guest other(twin);
  uint16_t sizes[2] = {};
  int seen = 0;
  for (int step = 0; step < 200 && !input.empty(); step++) {
    switch (input.below(8)) {
      case 0:
      case 1: {
        const uint64_t offset = input.byte();
        const auto value = input.take<uint32_t>();
        if (offset == 0x70 && value == 0)
          guest.reset();  // waits for the loop, which is ours to turn
        else
          guest.set(offset, value);
        break;
      }
      case 2: {
        uint8_t bytes[8];
        guest.transport->read(input.take<uint16_t>(), bytes, size_t{1} << input.below(4));
        break;
      }
      case 3: {
        const auto bytes = input.take<uint64_t>();
        const uint64_t offset = 0x100 + uint64_t{input.byte()};
        guest.transport->write(offset, reinterpret_cast<const uint8_t*>(&bytes), 4);
        break;
      }
      case 4:
        guest.memory.write(0x100000 + uint64_t{input.take<uint16_t>()}, input.take<uint64_t>());
        break;
      case 5:
        guest.set(0x50, input.below(3));
        guest.loop.settle();
        break;
      case 6:
        if (guest.status() == 0) guest.start(input.take<uint32_t>() | uint64_t{1} << 32, 8);
        break;
      default:
        MUST(other.transport->load(guest.transport->save()) || guest.status() != 0xf);
        other.loop.settle();
        other.reset();
    }
    const uint32_t status = guest.status() & ~0xc0U;
    MUST(status == 0 || status == 1 || status == 3 || status == 0xb || status == 0xf);
    guest.loop.settle();
    for (size_t i = 0; i < device.queues.size(); i++) {
      const uint16_t now = device.queues[i] == nullptr ? 0 : device.queues[i]->size();
      MUST(now <= 64);
      if (seen == device.activations) MUST(sizes[i] == now);
      sizes[i] = now;
    }
    seen = device.queues.empty() ? -1 : device.activations;
  }
  return 0;
}
