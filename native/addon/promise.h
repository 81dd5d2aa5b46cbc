// Promises that other threads settle. One queue per JavaScript environment (main thread or worker) brings
// results home; it keeps the event loop alive only while a promise is pending.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "base/result.h"

namespace isopod::addon {

// Makes the value of a resolved promise, on JavaScript's thread. Empty: undefined.
using MakeValue = std::function<Napi::Value(Napi::Env)>;

// A handle, copied freely; the first resolve() or reject(), from any thread, settles.
class Deferred {
 public:
  explicit Deferred(Napi::Env env);
  Napi::Promise promise() const;
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
