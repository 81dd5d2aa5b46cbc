#include <napi.h>

#include "init_image.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("initImageSize", Napi::Number::New(env, sizeof(kInitImage)));
  return exports;
}
NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)
