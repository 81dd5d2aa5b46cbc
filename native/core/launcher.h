// The launcher threads: clone3 and whatever else must be done by a thread that lives as long as the
// process. PDEATHSIG fires when the *thread* that created a child exits, so these never do.
#pragma once

#include <functional>

namespace isopod::core {

// Runs `task` on one of two launchers, in order of arrival. They start at the first call, with all
// signals blocked by pthread_sigmask: the process's signals stay Node's business.
void on_launcher(std::function<void()> task);

}  // namespace isopod::core
