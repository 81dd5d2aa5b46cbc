#include "vmm/thread.h"

#include <signal.h>

#include <utility>

namespace isopod::vmm {

namespace {

// Devices and the vCPU loop need little; the default of 8 MiB is only address space, but a limit on
// that may be set.
constexpr size_t kStack = size_t{256} << 10;

}  // namespace

Status Thread::start(const char* name, std::function<void()> body) {
  body_ = std::move(body);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  // A thread inherits the mask of its maker.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int err = pthread_create(
      &thread_, &attributes,
      [](void* self) -> void* {
        static_cast<Thread*>(self)->body_();
        return nullptr;
      },
      this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (err != 0) return failure(err, "start thread", name);
  running_ = true;
  pthread_setname_np(thread_, name);
  return Done{};
}

void Thread::join() {
  if (!running_) return;
  pthread_join(thread_, nullptr);
  running_ = false;
}

}  // namespace isopod::vmm
