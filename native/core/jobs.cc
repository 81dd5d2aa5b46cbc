#include "core/jobs.h"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

namespace isopod::core {
namespace {

constexpr int kThreads = 4;

struct Pool {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<std::function<void()>> jobs;
  int threads = 0;

  void work() {
    for (;;) {
      std::unique_lock lock(mutex);
      ready.wait(lock, [this] { return !jobs.empty(); });
      std::function<void()> job = std::move(jobs.front());
      jobs.pop_front();
      lock.unlock();
      job();
    }
  }
};

void* run(void* argument) {
  std::unique_ptr<std::function<void()>> job(static_cast<std::function<void()>*>(argument));
  (*job)();
  return nullptr;
}

}  // namespace

bool run_detached(std::function<void()> job) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  auto* argument = new std::function<void()>(std::move(job));
  pthread_t thread;
  bool made = pthread_create(&thread, nullptr, run, argument) == 0;
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (!made) {
    delete argument;
    return false;
  }
  pthread_setname_np(thread, "isopod-job");
  pthread_detach(thread);
  return true;
}

void run_job(std::function<void()> job) {
  static Pool* pool = [] {
    auto* made = new Pool();
    for (int i = 0; i < kThreads; i++) made->threads += run_detached([made] { made->work(); });
    return made;
  }();
  // No thread to be had: these jobs may run anywhere, so rather here than never.
  if (pool->threads == 0) return job();
  std::lock_guard lock(pool->mutex);
  pool->jobs.push_back(std::move(job));
  pool->ready.notify_one();
}

}  // namespace isopod::core
