// The cgroup in which a launch begins.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

struct CgroupPlace {
  UniqueFd fd;        // the directory, for CLONE_INTO_CGROUP
  bool made = false;  // by us: to be removed if the launch fails
};

// mkdir if missing (the parent must exist); attaches the eBPF device program, if there is one.
// Undone on failure.
Result<CgroupPlace> cgroup_prepare(const std::string& path,
                                   const std::vector<uint8_t>& device_program);

}  // namespace isopod::core
