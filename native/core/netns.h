// Pinned network namespaces (R7): a namespace lives while its file is bind-mounted somewhere.
#pragma once

#include <string>

#include "base/result.h"

namespace isopod::core {

// Makes a network namespace with `lo` up and pins it at `path`, whose directory becomes a shared mount as
// `ip netns` makes it: CNI daemons that run in pods see pins only by propagation. Leaves the calling thread
// in the new namespace, so it must be a thread of its own (run_detached).
Status netns_create(const std::string& path);

// Unpins; the namespace itself goes when nothing runs in it any more. An absent pin is fine.
Status netns_delete(const std::string& path);

}  // namespace isopod::core
