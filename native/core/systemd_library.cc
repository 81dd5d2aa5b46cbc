#include "core/systemd_library.h"

#include <dlfcn.h>

namespace isopod::core {

namespace {

constexpr char kName[] = "libsystemd.so.0";

Error absent(const char* why) {
  return Error{
      0, "systemd", kName, "", why != nullptr ? why : "cannot be loaded", "FAILED_PRECONDITION"};
}

Result<const SystemdLibrary*> load() {
  void* handle = ::dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return absent(::dlerror());
  auto* library = new SystemdLibrary;
#define ISOPOD_SD_BUS_LOAD(name)                                                      \
  library->bus_##name =                                                               \
      reinterpret_cast<decltype(&::sd_bus_##name)>(::dlsym(handle, "sd_bus_" #name)); \
  if (library->bus_##name == nullptr) return absent(::dlerror());
  ISOPOD_SD_BUS(ISOPOD_SD_BUS_LOAD)
#undef ISOPOD_SD_BUS_LOAD
  return library;
}

}  // namespace

Result<const SystemdLibrary*> systemd_library() {
  static auto* loaded = new Result<const SystemdLibrary*>(load());
  return *loaded;
}

}  // namespace isopod::core
