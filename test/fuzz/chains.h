// Chains of a hostile driver: pieces of guest memory of any shape, some of them none.
#pragma once

#include "input.h"
#include "virtio/guest.h"

namespace fuzz {

using isopod::vmm::kMinMemory;
using isopod::vmm::virtio::test::Guest;
using isopod::vmm::virtio::test::Range;

// Mostly inside memory: an input that breaks the ring at once finds nothing else.
inline uint64_t address(Input& input) {
  switch (input.below(16)) {
    case 0:
      return input.take<uint64_t>();
    case 1:
      return kMinMemory - input.byte();
    default:
      return 0x1000000 + input.take<uint16_t>();
  }
}

// Lays `bytes` out in `pieces` readable descriptors from descriptor 0 on, then `writable` ones of
// `room` bytes each; offers it and notifies.
inline void offer(Guest& guest, uint32_t queue, const std::string& bytes, uint32_t pieces,
                  uint32_t writable, uint32_t room) {
  std::vector<Range> out;
  const Range all = guest.buffer_of(bytes);
  const auto size = static_cast<uint32_t>(bytes.size());
  for (uint32_t i = 0, at = 0; i < pieces && at < size; i++) {
    const uint32_t part = i + 1 == pieces ? size - at : std::max(1U, (size - at) / (pieces - i));
    out.push_back({all.address + at, part});
    at += part;
  }
  std::vector<Range> in;
  for (uint32_t i = 0; i < writable; i++) in.push_back(guest.buffer(room));
  guest.add(queue, out, in);
  guest.kick(queue);
  guest.used(queue);
  guest.reset_buffers();
}

}  // namespace fuzz
