// Disks by their serial: letters depend on the order in which devices were found.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace isopod::agent {

struct Disk {
  std::string path;  // /dev/vda
  uint32_t major = 0;
  uint32_t minor = 0;
};

// /sys/block/*/serial (virtio-blk). Waits at most `timeout_ms` for it to come.
Result<Disk> find_disk(const std::string& serial, uint32_t timeout_ms);

}  // namespace isopod::agent
