// Addresses of devices. Built before the first vCPU runs and never changed, so that vCPU threads
// look things up without a lock. Two of them per machine: port I/O and memory-mapped I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace isopod::vmm {

// Called on a vCPU's thread, several at once. `size` is 1, 2, 4 or 8; `offset` counts from the
// device's base.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  virtual void read(uint64_t offset, uint8_t* data, size_t size) = 0;
  virtual void write(uint64_t offset, const uint8_t* data, size_t size) = 0;
};

class Bus {
 public:
  // The device is borrowed. False: the range is empty, wraps, or overlaps another.
  [[nodiscard]] bool add(uint64_t base, uint64_t size, BusDevice* device);
  // Reads where nothing answers give all ones, writes vanish, as on a real bus. An access that
  // crosses the end of a device's range belongs to nobody.
  void read(uint64_t address, uint8_t* data, size_t size) const;
  void write(uint64_t address, const uint8_t* data, size_t size) const;

 private:
  struct Range {
    uint64_t base;
    uint64_t size;
    BusDevice* device;
  };
  const Range* find(uint64_t address, size_t size) const;
  std::vector<Range> ranges_;  // sorted by base
};

}  // namespace isopod::vmm
