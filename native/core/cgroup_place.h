// The cgroup in which a launch begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/cgroup_write.h"

namespace isopod::core {

struct CgroupPlace {
  UniqueFd fd;        // the directory, for CLONE_INTO_CGROUP
  bool made = false;  // by us: to be removed if the launch fails
  CgroupWrites undo;  // else: what puts its former settings back
};

// mkdir if missing (the parent must exist), settings, the eBPF device program if there is one.
// Undone on failure.
Result<CgroupPlace> cgroup_prepare(const std::string& path, const CgroupWrites& writes,
                                   const std::vector<uint8_t>& device_program);
// The same for a cgroup that somebody else has made for `pid`, which must be in it.
Status cgroup_adopt(const std::string& path, int pid, const CgroupWrites& writes,
                    const std::vector<uint8_t>& device_program);
// Takes the settings back from a cgroup that was there before.
void cgroup_restore(const std::string& path, const CgroupWrites& undo);

}  // namespace isopod::core
