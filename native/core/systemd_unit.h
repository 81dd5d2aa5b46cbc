// What is asked of systemd: scopes for processes that we have started, their properties, their end.
// Nothing here knows what a container is; names and properties come from src/runtime/systemd.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "core/systemd_value.h"

namespace isopod::core {

struct TransientUnit {
  std::string name;
  std::vector<UnitProperty> properties;
  int timeout_ms = 0;
};

// `done` is called once, on the bus's thread.
using UnitDone = std::function<void(Status)>;

// StartTransientUnit with `pid` as the unit's first process, then waits for the job. A unit of that
// name that has failed earlier is reset; one that lives is an error (ALREADY_EXISTS). What a
// failure leaves behind is for unit_stop.
void unit_start(TransientUnit unit, int pid, UnitDone done);

// StopUnit, then waits for the job, then ResetFailedUnit. A unit that is not there is fine.
void unit_stop(const std::string& name, int timeout_ms, UnitDone done);

// SetUnitProperties until the unit's end: nothing is written to /etc.
void unit_set(TransientUnit changes, UnitDone done);

// A text property: of the unit, or of systemd itself if `name` is empty.
void unit_read(const std::string& name, const std::string& interface, const std::string& property,
               int timeout_ms, std::function<void(Result<std::string>)> done);

}  // namespace isopod::core
