// Split virtqueues (virtio 1.2, 2.7): three areas in guest memory.
//
//   descriptors  {address, length, flags, next}[size]: chains of buffers, readable ones first
//   available    {flags, idx, ring[size], used_event}: heads of chains; the driver writes it
//   used         {flags, idx, {id, length}[size], avail_event}: chains given back; we write it
//
// The driver is hostile. What it breaks is *its* queue: the first violation makes the queue broken
// for good (nothing is popped any more), never an access outside guest memory. Each field is
// fetched once and judged in host memory; addresses become pointers in GuestMemory::span() only.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/memory.h"

namespace isopod::vmm::virtio {

constexpr uint64_t kFeatureIndirect = uint64_t{1} << 28;
constexpr uint64_t kFeatureEventIdx = uint64_t{1} << 29;
constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;

// preadv takes no more pieces (IOV_MAX), and a chain has at most as many as its queue has entries.
constexpr uint16_t kMaxQueueSize = 1024;

// One request of the driver, resolved. Its vectors keep their capacity when it is popped into
// again.
struct Chain {
  uint16_t head = 0;
  std::vector<iovec> readable;  // host pointers into guest memory; no piece is empty
  std::vector<iovec> writable;
  size_t readable_bytes = 0;  // both sums together: less than 4 GiB
  size_t writable_bytes = 0;
};

// What the driver said about a queue, as it said it.
struct QueueSetup {
  uint32_t size = 0;
  bool ready = false;
  uint64_t descriptors = 0;
  uint64_t available = 0;
  uint64_t used = 0;
};

// Where a saved queue goes on.
struct QueuePosition {
  uint16_t next_available = 0;
  uint16_t next_used = 0;
};

// On the loop's thread only.
class Queue {
 public:
  // Nothing: size is no power of two or over `max`, an area is misaligned or not wholly inside one
  // slot of memory. The memory is borrowed.
  static std::optional<Queue> create(const GuestMemory& memory, const QueueSetup& setup,
                                     uint16_t max, uint64_t features, QueuePosition position = {});

  // The next request; false: there is none (then the driver is asked to notify), or broken().
  [[nodiscard]] bool pop(Chain& chain);
  // Takes back the last `count` of pop(), none of which was pushed.
  void unpop(uint16_t count);
  // Gives a chain back; `written`: bytes from the start of its writable part that hold data.
  void push(uint16_t head, uint32_t written) {
    fill(head, written);
    publish();
  }
  // The same in two steps, for chains that the driver is to see all at once.
  void fill(uint16_t head, uint32_t written);
  void publish();
  // Whether the driver wants to hear of what was pushed since this was last asked.
  [[nodiscard]] bool wants_interrupt();

  bool broken() const { return broken_; }
  uint16_t size() const { return size_; }
  uint16_t in_flight() const { return in_flight_; }
  QueuePosition position() const { return {next_available_, next_used_}; }

 private:
  Queue() = default;
  bool fail();
  bool available();
  bool walk(Chain& chain, uint16_t head);
  bool add(Chain& chain, uint64_t address, uint32_t length, bool writable);

  const GuestMemory* memory_ = nullptr;
  uint8_t* descriptors_ = nullptr;
  uint8_t* available_ = nullptr;
  uint8_t* used_ = nullptr;
  uint16_t size_ = 0;
  bool event_idx_ = false;
  bool indirect_ = false;
  bool broken_ = false;
  uint16_t next_available_ = 0;
  uint16_t next_used_ = 0;
  uint16_t signalled_ = 0;  // next_used_ when wants_interrupt() was last asked
  uint16_t in_flight_ = 0;  // popped, not pushed
};

}  // namespace isopod::vmm::virtio
