#include "addon/promise.h"
#include "core/error_text.h"

namespace isopod::addon {

Napi::Value error_value(Napi::Env env, const Error& error) {
  Napi::Object value = Napi::Error::New(env, core::text_of(error)).Value();
  // The brand that IsopodError.is() looks for.
  constexpr char kBrand[] = "isopod.error";
  napi_value brand;
  if (node_api_symbol_for(env, kBrand, sizeof(kBrand) - 1, &brand) == napi_ok)
    value.Set(brand, true);
  value.Set("name", "IsopodError");
  value.Set("code", core::code_of(error));
  value.Set("step", error.step);
  if (error.err != 0) value.Set("errno", core::errno_name(error.err));
  if (const std::string& path = error.target.empty() ? error.subject : error.target; !path.empty())
    value.Set("path", path);
  return value;
}

void throw_error(Napi::Env env, const Error& error) {
  Napi::Error(env, error_value(env, error)).ThrowAsJavaScriptException();
}

}  // namespace isopod::addon
