// Work that may take a moment and touches no namespace: a few threads of our own, so that a slow unmount
// holds up neither JavaScript nor libuv's pool.
#pragma once

#include <functional>

namespace isopod::core {

// Runs `job` on one of the pool's threads. They start with the first job, mask all signals and never end.
void run_job(std::function<void()> job);

// Runs `job` on a thread of its own that ends with it: for jobs that change the thread's namespaces. False:
// no thread could be made, and the job did not run.
[[nodiscard]] bool run_detached(std::function<void()> job);

}  // namespace isopod::core
