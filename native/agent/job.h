// Work that may wait, away from the poller's thread.
#pragma once

#include <memory>
#include <utility>

#include "core/jobs.h"
#include "core/poller.h"

namespace isopod::agent {

// Runs `work` on a job thread, then `then` with its result on the control poller.
template <typename Work, typename Then>
void in_job(Work work, Then then) {
  core::run_job([work = std::move(work), then = std::move(then)] {
    auto result = std::make_shared<decltype(work())>(work());
    core::Poller::control().post([result, then] { then(std::move(*result)); });
  });
}

}  // namespace isopod::agent
