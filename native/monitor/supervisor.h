// The monitor proper: parent of one server at a time, its fd store, and the subreaper of its containers.
#pragma once

#include "base/fd.h"
#include "monitor/invocation.h"
#include "monitor/place.h"
#include "monitor/program.h"

namespace isopod::monitor {

struct Supervision {
  const Invocation* invocation;
  const Bootstrap* bootstrap;
  const Place* place;
  const Program* program;
  SocketText socket;
};

// Never returns: ends when the server ended by itself, at SIGTERM, or after too many crashes. Takes the
// listener. Call in a fresh process, stdout and stderr still the caller's.
[[noreturn]] void supervise(const Supervision& what, UniqueFd listener);

}  // namespace isopod::monitor
