#include "vmm/virtio/workers.h"

#include <utility>

namespace isopod::vmm::virtio {

Result<std::unique_ptr<Workers>> Workers::create(Loop& loop, const char* name, unsigned threads) {
  std::unique_ptr<Workers> workers(new Workers());
  for (unsigned i = 0; i < threads; i++) {
    auto& thread = workers->threads_.emplace_back(std::make_unique<Thread>());
    Status started = thread->start(name, [state = workers->state_, &loop] { serve(state, loop); });
    if (!started) return started.error();
  }
  return workers;
}

Workers::~Workers() {
  discard();
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ending = true;
  }
  state_->wanted.notify_all();
  for (auto& thread : threads_) thread->join();
}

void Workers::run(Task work, Task done) {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->queued.push_back({std::move(work), std::move(done)});
  }
  state_->wanted.notify_one();
}

void Workers::finish() {
  {
    std::unique_lock<std::mutex> lock(state_->mutex);
    state_->idle.wait(lock, [this] { return state_->queued.empty() && state_->running == 0; });
  }
  deliver(state_);
}

void Workers::discard() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->queued.clear();
  state_->idle.wait(lock, [this] { return state_->running == 0; });
  state_->completed.clear();
}

void Workers::serve(const std::shared_ptr<State>& state, Loop& loop) {
  std::unique_lock<std::mutex> lock(state->mutex);
  for (;;) {
    state->wanted.wait(lock, [&] { return state->ending || !state->queued.empty(); });
    if (state->ending) return;
    Item item = std::move(state->queued.front());
    state->queued.pop_front();
    state->running++;
    lock.unlock();
    item.work();
    lock.lock();
    state->running--;
    state->completed.push_back(std::move(item.done));
    // One task of the loop takes all that is completed by then.
    if (!std::exchange(state->posted, true)) loop.post([state] { deliver(state); });
    if (state->running == 0) state->idle.notify_all();
  }
}

void Workers::deliver(const std::shared_ptr<State>& state) {
  std::vector<Task> completed;
  {
    const std::lock_guard<std::mutex> lock(state->mutex);
    completed.swap(state->completed);
    state->posted = false;
  }
  for (const Task& done : completed) done();
}

}  // namespace isopod::vmm::virtio
