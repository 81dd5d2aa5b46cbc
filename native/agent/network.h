// The guest's network as the host's CNI made it: interfaces by their address, addresses, routes,
// neighbours. rtnetlink, synchronous: for a job thread.
#pragma once

#include "agent/messages.h"
#include "base/result.h"

namespace isopod::agent {

// Adds or replaces; nothing is removed. `lo` comes up too.
Status configure_network(const NetworkRequest& request);

}  // namespace isopod::agent
