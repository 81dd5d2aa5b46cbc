#include <napi.h>

#include "addon/exports.h"

namespace isopod::addon {

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  export_host(env, exports);
  export_pump(env, exports);
  export_store(env, exports);
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)

}  // namespace isopod::addon
