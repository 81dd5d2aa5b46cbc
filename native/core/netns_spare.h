// One network namespace in reserve. Making one is the dearest part of a launch (0.4 ms and more:
// every pernet module of the host has its say), and it can be done while the launch before is still
// at work.
#pragma once

#include "base/fd.h"

namespace isopod::core {

// A network namespace that nobody has been in, its `lo` down, as clone3 would make it; none if
// there is no spare, and then the caller makes it by clone3. Either way a new spare is begun: a
// program that never launches with a network namespace of its own never has one.
UniqueFd take_spare_netns();

}  // namespace isopod::core
