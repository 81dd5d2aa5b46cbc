// Each group of calls exports itself; addon.cc calls them all.
#pragma once

#include <napi.h>

namespace isopod::addon {

void export_cgroup(Napi::Env env, Napi::Object exports);
void export_host(Napi::Env env, Napi::Object exports);
void export_processes(Napi::Env env, Napi::Object exports);
void export_pump(Napi::Env env, Napi::Object exports);
void export_store(Napi::Env env, Napi::Object exports);
void export_systemd(Napi::Env env, Napi::Object exports);
void export_tap(Napi::Env env, Napi::Object exports);
void export_unpack(Napi::Env env, Napi::Object exports);
void export_vm(Napi::Env env, Napi::Object exports);

}  // namespace isopod::addon
