// cgroup v2 directories: emptying, removing, freezing. Making one belongs to the launch (launcher.h).
#pragma once

#include <string>

#include "base/result.h"

namespace isopod::core {

// Kills whatever runs in `path` and below (cgroup.kill, 5.14; before that each process), waits until it is
// empty and removes the tree. An absent directory is fine. May wait: for a job thread.
Status cgroup_destroy(const std::string& path, int timeout_ms);

// Writes cgroup.freeze and waits until cgroup.events says so: tasks stop at their next return to user space.
Status cgroup_freeze(const std::string& path, bool frozen, int timeout_ms);

}  // namespace isopod::core
