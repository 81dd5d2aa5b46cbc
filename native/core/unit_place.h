// Launching into a scope of systemd's. systemd makes the cgroup, for a process that exists: the
// stub is born beside its launcher and waits at PLACED, before its first step, until it has been
// moved, and limits and device program are where it has been moved to.
#pragma once

#include "core/launch.h"
#include "core/systemd_unit.h"

namespace isopod::core {

// Makes `request`, which is complete but for this, one for `unit`; `request.cgroup` is where
// systemd will have the unit's processes. A launch that fails stops the unit again, unless it was
// there before.
void place_in_unit(LaunchRequest& request, TransientUnit unit);

}  // namespace isopod::core
