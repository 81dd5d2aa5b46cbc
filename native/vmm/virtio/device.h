// What a virtio device is to its transport (mmio.h). The transport owns the register state machine
// and the queues; a device sees only rings that were validated and frozen at DRIVER_OK.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace isopod::vmm {

class Loop;

namespace virtio {

class Queue;

// How a device speaks up. Callable from the loop's thread.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  virtual void ring() = 0;    // buffers were used (InterruptStatus bit 0)
  virtual void config() = 0;  // the configuration changed (bit 1; bumps ConfigGeneration)
  // DEVICE_NEEDS_RESET: the driver broke the rules. The transport stops the device (reset()) soon
  // after, from a task of its own.
  virtual void broken() = 0;
  // notify(queue) again, after the others had their turn: no driver keeps the loop to itself.
  virtual void again(unsigned queue) = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  // --- constant; any thread ---
  virtual uint32_t id() const = 0;
  virtual uint64_t features() const = 0;                  // offered; the transport adds VERSION_1
  virtual std::vector<uint16_t> queue_sizes() const = 0;  // the maximum of each

  // --- on a vCPU's thread, under the transport's lock ---
  // Any width; beyond the end reads give zero.
  virtual void read_config(uint64_t offset, uint8_t* data, size_t size) const = 0;
  virtual void write_config(uint64_t offset, const uint8_t* data, size_t size) = 0;

  // --- on the loop's thread ---
  // DRIVER_OK: `accepted` is a subset of what was offered. Pointers hold until reset(); one is null
  // for a queue that the driver left out. Every queue is notified once right after.
  virtual void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) = 0;
  virtual void notify(unsigned queue) = 0;
  // Forgets all of the above; no descriptor is touched after it returns.
  virtual void reset() = 0;

  // Finishes what is in flight, so that save() finds every chain either untouched or given back.
  virtual void drain() {}
  // What a snapshot keeps besides the rings, which are the transport's; loaded before activate().
  virtual std::vector<uint8_t> save() const { return {}; }
  virtual bool load(const std::vector<uint8_t>& state) { return state.empty(); }
};

}  // namespace virtio
}  // namespace isopod::vmm
