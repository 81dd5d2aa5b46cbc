// The empty base (R8): what a container's mount namespace is cloned from, so that launching costs
// the same however many mounts the host has.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

// A mount namespace that holds one read-only tmpfs with the empty directories /root and /empty, and
// nothing else. Leaves the calling thread in it, so it must be a thread of its own (run_detached).
Result<UniqueFd> base_namespace();

}  // namespace isopod::core
