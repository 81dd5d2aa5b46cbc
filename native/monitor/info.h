// The answer to `-info`: what containerd 2.x asks a runtime before it uses it.
#pragma once

#include "monitor/wire.h"

namespace isopod::monitor {

// containerd.types.RuntimeInfo; `options` (an Any) is echoed.
void write_info(std::string_view options, WireWriter* out);

}  // namespace isopod::monitor
