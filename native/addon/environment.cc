#include "addon/environment.h"

namespace isopod::addon {

// Never freed: another thread may still be on its way with a result.
Environment& Environment::of(Napi::Env env) {
  auto* self = env.GetInstanceData<Environment>();
  if (self == nullptr || !self->usable()) {
    self = new Environment(env);
    napi_set_instance_data(env, self, nullptr, nullptr);
  }
  return *self;
}

Environment::Environment(Napi::Env env) : env_(env) {
  uv_loop_t* node = nullptr;
  if (loop_.descriptor() < 0 || napi_get_uv_event_loop(env, &node) != napi_ok ||
      uv_poll_init(node, &poll_, loop_.descriptor()) != 0) {
    loop_.close();
    return;
  }
  polled_ = true;
  poll_.data = this;
  context_ = std::make_unique<Napi::AsyncContext>(env, "isopod");
  uv_poll_start(&poll_, UV_READABLE, turn);
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  napi_add_async_cleanup_hook(env, close, this, &hook_);
}

// Promises that are settled here have their reactions run when the callback scope ends.
void Environment::turn(uv_poll_t* poll, int, int) {
  auto* self = static_cast<Environment*>(poll->data);
  Napi::HandleScope handles(self->env_);
  Napi::CallbackScope callback(self->env_, *self->context_);
  self->loop_.turn(0);
}

// Node waits for the handle's end before it takes its loop away.
void Environment::close(napi_async_cleanup_hook_handle, void* data) {
  auto* self = static_cast<Environment*>(data);
  self->env_ = nullptr;
  self->loop_.close();
  self->context_.reset();
  uv_close(reinterpret_cast<uv_handle_t*>(&self->poll_), [](uv_handle_t* poll) {
    napi_remove_async_cleanup_hook(static_cast<Environment*>(poll->data)->hook_);
  });
}

void Environment::hold() {
  if (holds_++ == 0 && polled_) uv_ref(reinterpret_cast<uv_handle_t*>(&poll_));
}

void Environment::release() {
  if (--holds_ == 0 && polled_) uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
}

}  // namespace isopod::addon
