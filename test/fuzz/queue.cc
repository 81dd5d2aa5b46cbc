// The ring walker over hostile memory: the input is what rings and tables hold. Oracle: whatever it
// hands out lies wholly in guest memory, in the order and number that a chain may have.
#include "vmm/virtio/queue.h"

#include "input.h"
#include "oracle.h"

using isopod::vmm::GuestMemory;
using isopod::vmm::kMinMemory;
using isopod::vmm::virtio::Chain;
using isopod::vmm::virtio::Queue;
using isopod::vmm::virtio::QueueSetup;

namespace {

bool inside(const GuestMemory& memory, const iovec& piece) {
  const auto begin = reinterpret_cast<uintptr_t>(piece.iov_base);
  for (const GuestMemory::Slot& slot : memory.slots()) {
    const auto host = reinterpret_cast<uintptr_t>(slot.host);
    if (begin >= host && begin - host < slot.size && piece.iov_len <= slot.size - (begin - host))
      return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static GuestMemory memory = std::move(*GuestMemory::create(kMinMemory));
  fuzz::Input input(data, size);
  constexpr uint16_t kSize = 16;
  const uint8_t flags = input.byte();
  const uint64_t features = (flags & 1 ? isopod::vmm::virtio::kFeatureIndirect : 0) |
                            (flags & 2 ? isopod::vmm::virtio::kFeatureEventIdx : 0);
  // Rings at the end of memory, the next byte is nobody's; tables fall into the first page.
  const QueueSetup setup{kSize, true, kMinMemory - 4096, kMinMemory - 2048, kMinMemory - 136};
  auto queue = Queue::create(memory, setup, kSize, features, {input.take<uint16_t>(), 0});
  MUST(queue.has_value());
  const std::string bytes = input.bytes(size);
  const auto put = [&](uint64_t address, size_t from, size_t room) {
    const auto span = memory.span(address, room);
    memset(span->data, 0, room);
    if (from < bytes.size())
      memcpy(span->data, bytes.data() + from, std::min(room, bytes.size() - from));
  };
  put(setup.available, 0, 6 + 2 * kSize);
  put(setup.descriptors, 38, 16 * kSize);
  put(0, 38 + 16 * kSize, 4096);
  put(setup.used, 0, 6 + 8 * kSize);

  Chain chain;
  for (int i = 0; i < 64 && queue->pop(chain); i++) {
    MUST(chain.head < kSize);
    MUST(chain.readable.size() + chain.writable.size() > 0);
    MUST(chain.readable.size() + chain.writable.size() <= kSize);
    size_t sum = 0;
    for (const auto* pieces : {&chain.readable, &chain.writable})
      for (const iovec& piece : *pieces) {
        MUST(piece.iov_len > 0 && inside(memory, piece));
        sum += piece.iov_len;
      }
    MUST(sum == chain.readable_bytes + chain.writable_bytes && sum <= UINT32_MAX);
    MUST(queue->in_flight() <= kSize);
    if (i % 3 == 2)
      queue->unpop(1);
    else
      queue->push(chain.head, 1);
    (void)queue->wants_interrupt();
  }
  return 0;
}
