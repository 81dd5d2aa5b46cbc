#include <cerrno>
#include <cstring>

#include "addon/promise.h"

namespace isopod::addon {
namespace {

const char* code_of(int err) {
  switch (err) {
    case ENOENT:
    case ESRCH:
      return "NOT_FOUND";
    case EEXIST:
      return "ALREADY_EXISTS";
    case EINVAL:
    case ENAMETOOLONG:
      return "INVALID_ARGUMENT";
    case EACCES:
    case EPERM:
      return "PERMISSION_DENIED";
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
      return "RESOURCE_EXHAUSTED";
    case ETIMEDOUT:
      return "DEADLINE_EXCEEDED";
    default:
      return "UNKNOWN";
  }
}

}  // namespace

Napi::Value error_value(Napi::Env env, const Error& error) {
  std::string text = error.step;
  if (!error.subject.empty()) text += " \"" + error.subject + "\"";
  if (!error.target.empty()) text += " at \"" + error.target + "\"";
  text += ": " + (error.why.empty() ? std::string(strerrordesc_np(error.err)) : error.why);
  Napi::Object value = Napi::Error::New(env, text).Value();
  // The brand that IsopodError.is() looks for.
  constexpr char kBrand[] = "isopod.error";
  napi_value brand;
  if (node_api_symbol_for(env, kBrand, sizeof(kBrand) - 1, &brand) == napi_ok) value.Set(brand, true);
  value.Set("name", "IsopodError");
  value.Set("code", code_of(error.err));
  value.Set("step", error.step);
  if (const char* name = strerrorname_np(error.err)) value.Set("errno", name);
  if (!error.subject.empty()) value.Set("path", error.subject);
  return value;
}

void throw_error(Napi::Env env, const Error& error) {
  Napi::Error(env, error_value(env, error)).ThrowAsJavaScriptException();
}

}  // namespace isopod::addon
