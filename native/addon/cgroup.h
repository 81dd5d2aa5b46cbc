#pragma once

#include "addon/options.h"
#include "core/cgroup_write.h"

namespace isopod::addon {

// The list of CgroupWrite that `name` is; on a fault `options` is not ok any more.
core::CgroupWrites read_cgroup_writes(Options& options, const char* name);

}  // namespace isopod::addon
