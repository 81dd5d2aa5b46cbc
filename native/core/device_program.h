// eBPF device programs: loaded once per distinct program, attached to any number of cgroups.
#pragma once

#include <cstdint>
#include <vector>

namespace isopod::core {

// 0, or an errno. `cgroup` is a descriptor of a cgroup2 directory (not O_PATH).
int attach_device_program(int cgroup, const std::vector<uint8_t>& program);

}  // namespace isopod::core
