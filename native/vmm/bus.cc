#include "vmm/bus.h"

#include <algorithm>
#include <cstring>

namespace isopod::vmm {

bool Bus::add(uint64_t base, uint64_t size, BusDevice* device) {
  if (size == 0 || base + (size - 1) < base) return false;
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), base,
                       [](uint64_t address, const Range& range) { return address < range.base; });
  if (after != ranges_.end() && after->base - base < size) return false;
  if (after != ranges_.begin()) {
    const Range& before = *(after - 1);
    if (base - before.base < before.size) return false;
  }
  ranges_.insert(after, {base, size, device});
  return true;
}

const Bus::Range* Bus::find(uint64_t address, size_t size) const {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), address,
                       [](uint64_t at, const Range& range) { return at < range.base; });
  if (after == ranges_.begin()) return nullptr;
  const Range& range = *(after - 1);
  const uint64_t offset = address - range.base;
  return offset < range.size && size <= range.size - offset ? &range : nullptr;
}

void Bus::read(uint64_t address, uint8_t* data, size_t size) const {
  if (const Range* range = find(address, size)) {
    range->device->read(address - range->base, data, size);
  } else {
    memset(data, 0xff, size);
  }
}

void Bus::write(uint64_t address, const uint8_t* data, size_t size) const {
  if (const Range* range = find(address, size)) {
    range->device->write(address - range->base, data, size);
  }
}

}  // namespace isopod::vmm
