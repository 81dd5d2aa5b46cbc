// The guest's side of a device: a driver that keeps the rules until it is told to break one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "virtio/loop.h"
#include "vmm/memory.h"
#include "vmm/virtio/mmio.h"

namespace isopod::vmm::virtio::test {

struct Range {
  uint64_t address;
  uint32_t size;
};

struct Used {
  uint32_t id;
  uint32_t length;
};

inline GuestMemory make_memory(uint64_t bytes = kMinMemory) {
  Result<GuestMemory> made = GuestMemory::create(bytes);
  if (!made) abort();
  return std::move(*made);
}

constexpr uint64_t kRings = 0x100000;     // 64 KiB per queue
constexpr uint64_t kBuffers = 0x1000000;  // handed out from here on

class Guest {
 public:
  explicit Guest(Device& device) : Guest(device, nullptr) {}
  Guest(Device& device, TestLoop* shared)
      : own_(shared == nullptr ? std::make_unique<TestLoop>() : nullptr),
        loop(shared == nullptr ? *own_ : *shared),
        memory(make_memory()) {
    auto made = Transport::create(memory, loop, device);
    if (!made) abort();
    transport = std::move(*made);
  }

  // --- registers ---
  uint32_t get(uint64_t offset) {
    uint32_t value = 0;
    transport->read(offset, reinterpret_cast<uint8_t*>(&value), sizeof(value));
    return value;
  }
  void set(uint64_t offset, uint32_t value) {
    transport->write(offset, reinterpret_cast<const uint8_t*>(&value), sizeof(value));
  }
  template <typename T>
  T config(uint64_t offset) {
    T value;
    transport->read(0x100 + offset, reinterpret_cast<uint8_t*>(&value), sizeof(value));
    return value;
  }
  uint32_t status() { return get(0x70); }
  // Another thread is the vCPU: its write waits for the loop, which is turned here.
  void reset() {
    std::atomic<bool> done{false};
    std::thread vcpu([&] {
      set(0x70, 0);
      done = true;
    });
    CHECK(loop.until([&] { return done.load(); }));
    vcpu.join();
    rings_.clear();
  }

  uint64_t offered() {
    set(0x14, 0);
    uint64_t features = get(0x10);
    set(0x14, 1);
    return features | uint64_t{get(0x10)} << 32;
  }
  void negotiate(uint64_t features) {
    set(0x70, 1);
    set(0x70, 3);
    set(0x24, 0);
    set(0x20, static_cast<uint32_t>(features));
    set(0x24, 1);
    set(0x20, static_cast<uint32_t>(features >> 32));
    set(0x70, 0xb);
  }
  void place(uint32_t queue, uint32_t size, uint64_t descriptors, uint64_t available,
             uint64_t used) {
    set(0x30, queue);
    set(0x38, size);
    set(0x80, static_cast<uint32_t>(descriptors));
    set(0x84, static_cast<uint32_t>(descriptors >> 32));
    set(0x90, static_cast<uint32_t>(available));
    set(0x94, static_cast<uint32_t>(available >> 32));
    set(0xa0, static_cast<uint32_t>(used));
    set(0xa4, static_cast<uint32_t>(used >> 32));
    set(0x44, 1);
  }
  void setup_queue(uint32_t queue, uint16_t size) {
    if (rings_.size() <= queue) rings_.resize(queue + 1);
    Ring& ring = rings_[queue];
    ring = {};
    ring.size = size;
    ring.descriptors = kRings + queue * 0x10000;
    ring.available = ring.descriptors + 0x8000;
    ring.used = ring.descriptors + 0xc000;
    memset(at(ring.descriptors, 0x10000), 0, 0x10000);
    place(queue, size, ring.descriptors, ring.available, ring.used);
  }
  // The whole way to a running device.
  void start(uint64_t features = kFeatureVersion1, uint16_t size = 64) {
    features_ = features;
    negotiate(features | kFeatureVersion1);
    uint32_t queues = 0;
    for (set(0x30, 0); get(0x34) != 0; set(0x30, ++queues))
      setup_queue(queues, static_cast<uint16_t>(std::min<uint32_t>(size, get(0x34))));
    set(0x70, 0xf);
    loop.settle();
  }

  // --- memory ---
  uint8_t* at(uint64_t address, uint64_t size) {
    const auto span = memory.span(address, size);
    if (!span) abort();
    return span->data;
  }
  Range buffer(uint32_t size) {
    const Range range{next_buffer_, size};
    next_buffer_ += (size + 15) & ~uint32_t{15};
    return range;
  }
  // Buffers are handed out in a circle of 32 MiB: nobody holds one for so long.
  void reset_buffers() {
    if (next_buffer_ > kBuffers + (uint64_t{32} << 20)) next_buffer_ = kBuffers;
  }
  template <typename T>
  Range buffer_of(const T& value) {
    const Range range = buffer(sizeof(value));
    memory.write(range.address, value);
    return range;
  }
  Range buffer_of(const std::string& text) {
    const Range range = buffer(static_cast<uint32_t>(text.size()));
    memcpy(at(range.address, range.size), text.data(), text.size());
    return range;
  }
  std::string text(Range range, size_t size) {
    if (size == 0) return "";
    return {reinterpret_cast<const char*>(at(range.address, size)), size};
  }
  template <typename T>
  T value(Range range) {
    return *memory.read<T>(range.address);
  }

  // --- rings ---
  struct Ring {
    uint16_t size = 0;
    uint64_t descriptors = 0;
    uint64_t available = 0;
    uint64_t used = 0;
    uint16_t next_descriptor = 0;
    uint16_t available_index = 0;
    uint16_t used_index = 0;
  };
  Ring& ring(uint32_t queue) { return rings_[queue]; }

  void descriptor(uint32_t queue, uint32_t index, uint64_t address, uint32_t length, uint16_t flags,
                  uint16_t next) {
    descriptor_at(rings_[queue].descriptors + 16 * index, address, length, flags, next);
  }
  void descriptor_at(uint64_t where, uint64_t address, uint32_t length, uint16_t flags,
                     uint16_t next) {
    memory.write(where, address);
    memory.write(where + 8, length);
    memory.write(where + 12, flags);
    memory.write(where + 14, next);
  }
  void offer(uint32_t queue, uint16_t head) {
    Ring& ring = rings_[queue];
    memory.write(ring.available + 4 + 2 * (ring.available_index % ring.size), head);
    ring.available_index++;
    memory.write(ring.available + 2, ring.available_index);
  }
  // Descriptors are handed out in a circle: no more than the ring's size may be in flight.
  uint16_t add(uint32_t queue, const std::vector<Range>& readable,
               const std::vector<Range>& writable) {
    Ring& ring = rings_[queue];
    const uint16_t head = ring.next_descriptor;
    const size_t count = readable.size() + writable.size();
    for (size_t i = 0; i < count; i++) {
      const bool writes = i >= readable.size();
      const Range range = writes ? writable[i - readable.size()] : readable[i];
      const uint16_t index = ring.next_descriptor;
      ring.next_descriptor = static_cast<uint16_t>((index + 1) % ring.size);
      const uint16_t flags = (writes ? 2 : 0) | (i + 1 < count ? 1 : 0);
      descriptor(queue, index, range.address, range.size, flags, ring.next_descriptor);
    }
    offer(queue, head);
    return head;
  }
  void kick(uint32_t queue) {
    set(0x50, queue);
    loop.settle();
  }
  std::vector<Used> used(uint32_t queue) {
    Ring& ring = rings_[queue];
    std::vector<Used> found;
    const auto index = *memory.read<uint16_t>(ring.used + 2);
    for (; ring.used_index != index; ring.used_index++)
      found.push_back(*memory.read<Used>(ring.used + 4 + 8 * (ring.used_index % ring.size)));
    if ((features_ & kFeatureEventIdx) != 0)
      memory.write(ring.available + 4 + 2 * ring.size, ring.used_index);
    return found;
  }
  // Waits until `count` chains came back.
  std::vector<Used> wait_used(uint32_t queue, size_t count) {
    std::vector<Used> found;
    loop.until([&] {
      for (const Used& one : used(queue)) found.push_back(one);
      return found.size() >= count;
    });
    return found;
  }
  // Interrupts since it was last asked.
  uint64_t interrupts() {
    uint64_t count = 0;
    if (::read(transport->irq(), &count, sizeof(count)) < 0) return 0;
    return count;
  }

 private:
  std::unique_ptr<TestLoop> own_;

 public:
  TestLoop& loop;
  GuestMemory memory;
  std::unique_ptr<Transport> transport;

 private:
  std::vector<Ring> rings_;
  uint64_t next_buffer_ = kBuffers;
  uint64_t features_ = 0;
};

}  // namespace isopod::vmm::virtio::test
