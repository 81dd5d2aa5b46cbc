#include "addon/promise.h"

#include <atomic>
#include <cerrno>
#include <utility>

#include "addon/environment.h"

namespace isopod::addon {

struct Deferred::Pending {
  explicit Pending(Napi::Env env)
      : deferred(Napi::Promise::Deferred::New(env)), environment(Environment::of(env)) {}

  Napi::Promise::Deferred deferred;
  Environment& environment;
  std::atomic<bool> settled{false};
  MakeValue make;
  std::unique_ptr<Error> error;

  static void send(const std::shared_ptr<Pending>& self) {
    if (self->environment.here()) return self->settle();
    self->environment.loop().post([self] { self->settle(); });
  }

  void settle() {
    if (environment.env() == nullptr) return;
    Napi::Env env(environment.env());
    Napi::HandleScope scope(env);
    if (error)
      deferred.Reject(error_value(env, *error));
    else
      deferred.Resolve(make ? make(env) : env.Undefined());
    environment.release();
  }
};

Deferred::Deferred(Napi::Env env) : pending_(std::make_shared<Pending>(env)) {
  pending_->environment.hold();
  if (!pending_->environment.usable()) reject(failure(EMFILE, "wait", ""));
}

Napi::Promise Deferred::promise() const { return pending_->deferred.Promise(); }

core::Loop& Deferred::loop() const { return pending_->environment.loop(); }

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
