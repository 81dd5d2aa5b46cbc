// A device's configuration space, from a struct that has its layout.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace isopod::vmm::virtio {

// `data` is zero where the struct ends.
template <typename Config>
void read_struct(const Config& config, uint64_t offset, uint8_t* data, size_t size) {
  static_assert(std::is_trivially_copyable_v<Config>);
  memset(data, 0, size);
  if (offset >= sizeof(config)) return;
  const auto* bytes = reinterpret_cast<const uint8_t*>(&config);
  memcpy(data, bytes + offset, std::min(size, sizeof(config) - static_cast<size_t>(offset)));
}

}  // namespace isopod::vmm::virtio
