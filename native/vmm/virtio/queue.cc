#include "vmm/virtio/queue.h"

#include <atomic>

namespace isopod::vmm::virtio {

namespace {

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;
constexpr uint16_t kNoInterrupt = 1;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  uint32_t id;
  uint32_t length;
};

// One look at guest memory. The empty asm hides where the value came from, or the compiler may
// fetch it again after it was checked.
template <typename T>
T fetch(const uint8_t* from) {
  T value;
  memcpy(&value, from, sizeof(T));
  asm volatile("" : "+m"(value) : : "memory");
  return value;
}

uint16_t load_index(const uint8_t* at) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(at), __ATOMIC_ACQUIRE);
}

void store_index(uint8_t* at, uint16_t value) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(at), value, __ATOMIC_RELEASE);
}

// Both rings begin with {flags, idx}.
constexpr size_t kIndex = 2;
constexpr size_t kRing = 4;

}  // namespace

std::optional<Queue> Queue::create(const GuestMemory& memory, const QueueSetup& setup, uint16_t max,
                                   uint64_t features, QueuePosition position) {
  const uint32_t size = setup.size;
  if (size == 0 || size > max || (size & (size - 1)) != 0) return std::nullopt;
  if (setup.descriptors % 16 != 0 || setup.available % 2 != 0 || setup.used % 4 != 0)
    return std::nullopt;
  const auto descriptors = memory.span(setup.descriptors, sizeof(Descriptor) * size);
  const auto available = memory.span(setup.available, kRing + 2 * size + 2);
  const auto used = memory.span(setup.used, kRing + sizeof(UsedElement) * size + 2);
  if (!descriptors || !available || !used) return std::nullopt;

  Queue queue;
  queue.memory_ = &memory;
  queue.descriptors_ = descriptors->data;
  queue.available_ = available->data;
  queue.used_ = used->data;
  queue.size_ = static_cast<uint16_t>(size);
  queue.event_idx_ = (features & kFeatureEventIdx) != 0;
  queue.indirect_ = (features & kFeatureIndirect) != 0;
  queue.next_available_ = position.next_available;
  queue.next_used_ = position.next_used;
  queue.signalled_ = position.next_used;
  return queue;
}

bool Queue::fail() {
  broken_ = true;
  return false;
}

// Whether a head waits. More than `size` of them cannot be: the index jumped, and what the ring
// holds would be served again and again.
bool Queue::available() {
  const auto waiting = [this] {
    return static_cast<uint16_t>(load_index(available_ + kIndex) - next_available_);
  };
  uint16_t count = waiting();
  if (count == 0 && event_idx_) {
    // "Notify me at the next one", then look again: it may have come before the driver saw that.
    store_index(used_ + kRing + sizeof(UsedElement) * size_, next_available_);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    count = waiting();
  }
  if (count > size_) return fail();
  return count > 0;
}

bool Queue::pop(Chain& chain) {
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;
  if (broken_ || !available()) return false;
  // More requests than descriptors: some head was offered again before it was given back.
  if (in_flight_ == size_) return fail();
  const size_t slot = next_available_ & (size_ - 1);
  const auto head = fetch<uint16_t>(available_ + kRing + 2 * slot);
  if (!walk(chain, head)) return fail();
  next_available_++;
  in_flight_++;
  return true;
}

bool Queue::walk(Chain& chain, uint16_t head) {
  chain.head = head;
  const uint8_t* table = descriptors_;
  uint32_t entries = size_;
  uint32_t index = head;
  bool nested = false;
  // A chain is never longer than its queue: this ends loops, too.
  for (uint32_t left = size_; left > 0;) {
    if (index >= entries) return false;
    const auto descriptor = fetch<Descriptor>(table + sizeof(Descriptor) * index);
    if ((descriptor.flags & kIndirect) != 0) {
      // The last of the chain, and never in a table itself (2.7.5.3).
      if (!indirect_ || nested || (descriptor.flags & kNext) != 0) return false;
      if (descriptor.length % sizeof(Descriptor) != 0) return false;
      const auto span = memory_->span(descriptor.address, descriptor.length);
      if (!span) return false;
      table = span->data;
      entries = descriptor.length / uint32_t{sizeof(Descriptor)};
      index = 0;
      nested = true;
      continue;
    }
    left--;
    if (!add(chain, descriptor.address, descriptor.length, (descriptor.flags & kWrite) != 0))
      return false;
    if ((descriptor.flags & kNext) == 0) return true;
    index = descriptor.next;
  }
  return false;
}

bool Queue::add(Chain& chain, uint64_t address, uint32_t length, bool writable) {
  if (!writable && !chain.writable.empty()) return false;
  const auto span = memory_->span(address, length);
  if (!span) return false;
  size_t& bytes = writable ? chain.writable_bytes : chain.readable_bytes;
  bytes += length;
  if (chain.readable_bytes + chain.writable_bytes > UINT32_MAX) return false;
  (writable ? chain.writable : chain.readable).push_back({span->data, span->size});
  return true;
}

void Queue::unpop(uint16_t count) {
  next_available_ = static_cast<uint16_t>(next_available_ - count);
  in_flight_ = static_cast<uint16_t>(in_flight_ - count);
}

void Queue::fill(uint16_t head, uint32_t written) {
  const size_t slot = next_used_ & (size_ - 1);
  const UsedElement element{head, written};
  memcpy(used_ + kRing + sizeof(UsedElement) * slot, &element, sizeof(element));
  next_used_++;
  in_flight_--;
}

void Queue::publish() { store_index(used_ + kIndex, next_used_); }

bool Queue::wants_interrupt() {
  if (next_used_ == signalled_) return false;
  const uint16_t before = signalled_;
  signalled_ = next_used_;
  // The index must be out before the driver's wish is read (2.7.7.2, 2.7.10).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_idx_) return (load_index(available_) & kNoInterrupt) == 0;
  const uint16_t event = load_index(available_ + kRing + 2 * size_);
  return static_cast<uint16_t>(next_used_ - event - 1) < static_cast<uint16_t>(next_used_ - before);
}

}  // namespace isopod::vmm::virtio
