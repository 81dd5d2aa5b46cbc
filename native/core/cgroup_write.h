// Settings of a cgroup v2: writes to its files, all of them or none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace isopod::core {

// One write(2). What the members mean: src/native/types.ts.
struct CgroupWrite {
  std::string file;
  std::string value;
  std::string key;
  std::string unset;
  bool optional = false;
  bool retry = false;
  std::shared_ptr<const CgroupWrite> instead;
};
using CgroupWrites = std::vector<CgroupWrite>;

// Writes in order, below the directory `cgroup` whose path is `path` (for texts). If one fails,
// what had been written is put back. Returns what puts the former values back; nothing with
// `fresh`, for a cgroup that is removed when anything fails.
Result<CgroupWrites> cgroup_write(int cgroup, const std::string& path, const CgroupWrites& writes,
                                  bool fresh);
// The same by path.
Result<CgroupWrites> cgroup_write(const std::string& path, const CgroupWrites& writes);

// Has the kernel found no memory for a process of this cgroup, within its limit or at all?
bool cgroup_lacked_memory(const std::string& path);

}  // namespace isopod::core
