// The `delete` verb: kills and cleans up one container (or sandbox), and nothing else.
#pragma once

#include "monitor/invocation.h"
#include "monitor/place.h"

namespace isopod::monitor {

struct Removed {
  uint32_t pid = 0;
  uint32_t status = 128 + 9;
  int64_t exited_at = 0;  // nanoseconds since 1970
};

// Through its server where one answers; else by its record: cgroup killed, files removed. Idempotent: what is
// not known is gone. The status is the recorded one, 137 and now where there is none.
Removed remove_container(const Invocation& invocation, const Place& place, std::string_view bundle);

}  // namespace isopod::monitor
