// What waits on JavaScript's own thread: one per JavaScript environment (main thread or worker),
// made at its first call that waits for something. Node's loop polls the descriptor of ours, so
// what happens to a watched descriptor, or is posted by another thread, costs one wake-up.
#pragma once

#include <napi.h>
#include <uv.h>

#include <memory>
#include <thread>

#include "core/loop.h"

namespace isopod::addon {

class Environment {
 public:
  static Environment& of(Napi::Env env);

  // False: there were no descriptors for it. The next call that waits tries anew.
  bool usable() const { return polled_; }
  // Null, once the environment closes: JavaScript is not to be entered any more.
  napi_env env() const { return env_; }
  core::Loop& loop() { return loop_; }
  // Whether the caller is on this environment's thread.
  bool here() const { return std::this_thread::get_id() == thread_; }
  // Node's loop stays alive as long as there is a hold.
  void hold();
  void release();

 private:
  explicit Environment(Napi::Env env);
  static void turn(uv_poll_t* poll, int status, int events);
  static void close(napi_async_cleanup_hook_handle hook, void* self);

  napi_env env_;
  const std::thread::id thread_ = std::this_thread::get_id();
  core::Loop loop_;
  uv_poll_t poll_{};
  bool polled_ = false;
  std::unique_ptr<Napi::AsyncContext> context_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  size_t holds_ = 0;
};

}  // namespace isopod::addon
