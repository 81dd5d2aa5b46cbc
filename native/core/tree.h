// Walks over directory trees that containers have written: by descriptors, never following a link, never
// leaving the filesystem, and at any depth.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace isopod::core {

// rm -rf; an absent path is fine. A mount below it is an error, and stays.
Status remove_tree(const std::string& path);

struct DiskUsage {
  uint64_t bytes = 0;  // allocated, hard links counted once
  uint64_t inodes = 0;
};
// Of `path` itself and all below it. What disappears meanwhile is skipped.
Result<DiskUsage> disk_usage(const std::string& path);

}  // namespace isopod::core
