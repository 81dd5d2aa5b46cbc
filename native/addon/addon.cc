// The addon's door. Loading it starts no thread, opens no descriptor and changes nothing in the process.
#include <napi.h>

#include "addon/exports.h"
#include "core/memfd.h"
#include "init_image.h"

namespace isopod::addon {

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  core::set_init_image(kInitImage, sizeof(kInitImage));
  export_processes(env, exports);
  export_cgroup(env, exports);
  export_host(env, exports);
  export_pump(env, exports);
  export_store(env, exports);
  export_systemd(env, exports);
  export_tap(env, exports);
  export_unpack(env, exports);
  export_vm(env, exports);
  return exports;
}

NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)

}  // namespace isopod::addon
