#include "addon/promise.h"

#include <atomic>
#include <mutex>
#include <utility>

namespace isopod::addon {
namespace {

// One per environment, kept as its instance data and never freed: another thread may still be on its way.
// The function is freed with the environment, whoever still holds it; `mutex` keeps calls from that.
struct Queue {
  std::mutex mutex;
  napi_threadsafe_function function = nullptr;  // null once the environment closes
  size_t pending = 0;                           // JavaScript's thread only

  static void close(void* queue) {
    std::lock_guard lock(static_cast<Queue*>(queue)->mutex);
    static_cast<Queue*>(queue)->function = nullptr;
  }
};

}  // namespace

struct Deferred::Pending {
  Pending(Napi::Env env, Queue* to) : deferred(Napi::Promise::Deferred::New(env)), queue(to) {}

  Napi::Promise::Deferred deferred;
  Queue* queue;
  std::atomic<bool> settled{false};
  MakeValue make;
  std::unique_ptr<Error> error;

  // Hands `self` to JavaScript's thread; the queue owns that reference until then.
  static void send(std::shared_ptr<Pending> self) {
    Queue* to = self->queue;
    auto* reference = new std::shared_ptr<Pending>(std::move(self));
    std::lock_guard lock(to->mutex);
    if (to->function == nullptr ||
        napi_call_threadsafe_function(to->function, reference, napi_tsfn_nonblocking) != napi_ok) {
      delete reference;
    }
  }

  static void settle(napi_env raw, napi_value, void*, void* data) {
    std::unique_ptr<std::shared_ptr<Pending>> reference(static_cast<std::shared_ptr<Pending>*>(data));
    if (raw == nullptr) return;
    Pending& pending = **reference;
    Napi::Env env(raw);
    Napi::HandleScope scope(env);
    if (pending.error) {
      pending.deferred.Reject(error_value(env, *pending.error));
    } else {
      pending.deferred.Resolve(pending.make ? pending.make(env) : env.Undefined());
    }
    if (--pending.queue->pending == 0) napi_unref_threadsafe_function(raw, pending.queue->function);
  }
};

namespace {

Queue* queue_of(Napi::Env env, napi_threadsafe_function_call_js settle) {
  if (auto* queue = env.GetInstanceData<Queue>()) return queue;
  auto* queue = new Queue();
  napi_create_threadsafe_function(env, nullptr, nullptr, Napi::String::New(env, "isopod"), 0, 1, nullptr,
                                  nullptr, nullptr, settle, &queue->function);
  napi_unref_threadsafe_function(env, queue->function);
  // Hooks run last in, first out: before the function's own.
  napi_add_env_cleanup_hook(env, Queue::close, queue);
  napi_set_instance_data(env, queue, nullptr, nullptr);
  return queue;
}

}  // namespace

Deferred::Deferred(Napi::Env env)
    : pending_(std::make_shared<Pending>(env, queue_of(env, &Pending::settle))) {
  Queue* queue = pending_->queue;
  if (queue->pending++ == 0) napi_ref_threadsafe_function(env, queue->function);
}

Napi::Promise Deferred::promise() const { return pending_->deferred.Promise(); }

void Deferred::resolve(MakeValue make) const {
  if (pending_->settled.exchange(true)) return;
  pending_->make = std::move(make);
  Pending::send(pending_);
}

void Deferred::reject(Error error) const {
  if (pending_->settled.exchange(true)) return;
  pending_->error = std::make_unique<Error>(std::move(error));
  Pending::send(pending_);
}

}  // namespace isopod::addon
