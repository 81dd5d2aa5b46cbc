// Promises that any thread settles.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "base/result.h"
#include "core/loop.h"

namespace isopod::addon {

// Makes the value of a resolved promise, on JavaScript's thread. Empty: undefined.
using MakeValue = std::function<Napi::Value(Napi::Env)>;

// A handle, copied freely; the first resolve() or reject(), from any thread, settles: at once on
// JavaScript's own thread. Node's loop stays alive while a promise is pending.
class Deferred {
 public:
  explicit Deferred(Napi::Env env);
  Napi::Promise promise() const;
  // The one that this environment's thread runs.
  core::Loop& loop() const;
  void resolve(MakeValue make = nullptr) const;
  void reject(Error error) const;

 private:
  struct Pending;
  std::shared_ptr<Pending> pending_;
};

// A JavaScript Error with the members of IsopodError: code, step, errno, path (convert.cc).
Napi::Value error_value(Napi::Env env, const Error& error);
// The same, thrown; for calls that do not return a promise.
void throw_error(Napi::Env env, const Error& error);

}  // namespace isopod::addon
