#include "core/store_client.h"

#include <optional>

#include "addon/exports.h"
#include "addon/promise.h"

namespace isopod::addon {
namespace {

// One server has one store; JavaScript's thread only.
std::optional<core::StoreClient> store;

Napi::Value inventory_value(Napi::Env env, core::Inventory& inventory) {
  Napi::Object fds = Napi::Object::New(env);
  for (auto& [name, fd] : inventory.fds) fds.Set(name, fd.release());
  Napi::Array exits = Napi::Array::New(env);
  for (auto& left : inventory.exits) {
    Napi::Object exit = Napi::Object::New(env);
    exit.Set("id", left.id);
    exit.Set("status", left.status);
    exit.Set("exitedAt", Napi::BigInt::New(env, left.exited_at));
    exits.Set(exits.Length(), exit);
  }
  Napi::Object value = Napi::Object::New(env);
  value.Set("fds", fds);
  value.Set("exits", exits);
  return value;
}

Napi::Value StoreOpen(const Napi::CallbackInfo& info) {
  Deferred deferred(info.Env());
  auto inventory = std::make_shared<core::Inventory>();
  UniqueFd socket(info[0].ToObject().Get("fd").ToNumber().Int32Value());
  // Sent by the monitor before it let the server run: nothing here waits for long.
  Result<core::StoreClient> opened = core::StoreClient::open(std::move(socket), *inventory);
  if (!opened) {
    deferred.reject(opened.error());
  } else {
    store.emplace(std::move(*opened));
    deferred.resolve([inventory](Napi::Env env) { return inventory_value(env, *inventory); });
  }
  return deferred.promise();
}

Napi::Value checked(Napi::Env env, Status status) {
  if (!status) throw_error(env, status.error());
  return env.Undefined();
}

Napi::Value StorePut(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  if (!store) return info.Env().Undefined();
  int fd = options.Get("fd").ToNumber().Int32Value();
  return checked(info.Env(), store->put(options.Get("name").ToString(), fd));
}

Napi::Value StoreDrop(const Napi::CallbackInfo& info) {
  if (!store) return info.Env().Undefined();
  return checked(info.Env(), store->drop(info[0].ToObject().Get("name").ToString()));
}

Napi::Value StoreTask(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  if (!store) return info.Env().Undefined();
  int pid = options.Get("pid").ToNumber().Int32Value();
  return checked(info.Env(), store->task(options.Get("id").ToString(), pid, options.Get("record").ToString()));
}

}  // namespace

void export_store(Napi::Env env, Napi::Object exports) {
  exports.Set("storeOpen", Napi::Function::New(env, StoreOpen));
  exports.Set("storePut", Napi::Function::New(env, StorePut));
  exports.Set("storeDrop", Napi::Function::New(env, StoreDrop));
  exports.Set("storeTask", Napi::Function::New(env, StoreTask));
}

}  // namespace isopod::addon
