#include "core/host.h"

#include <cerrno>

#include "addon/exports.h"
#include "addon/promise.h"
#include "core/jobs.h"
#include "core/netns.h"
#include "core/tree.h"

namespace isopod::addon {
namespace {

std::string text(const Napi::Object& options, const char* name) { return options.Get(name).ToString(); }

// A job whose only result is that it is done.
Napi::Value done(Napi::Env env, std::function<Status()> work, bool own_thread = false) {
  Deferred deferred(env);
  auto job = [deferred, work = std::move(work)] {
    Status status = work();
    status ? deferred.resolve() : deferred.reject(status.error());
  };
  if (!own_thread) {
    core::run_job(job);
  } else if (!core::run_detached(job)) {
    deferred.reject(failure(EAGAIN, "start thread", ""));
  }
  return deferred.promise();
}

Napi::Value Features(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const core::Features& found = core::features();
  Napi::Array controllers = Napi::Array::New(env);
  for (const std::string& name : found.controllers) controllers.Set(controllers.Length(), name);
  Napi::Object flags = Napi::Object::New(env);
  for (const auto& [name, present] : found.flags) flags.Set(name, present);
  Napi::Object value = Napi::Object::New(env);
  value.Set("kernel", found.kernel);
  value.Set("arch", found.arch);
  value.Set("cgroupRoot", found.cgroup_root);
  value.Set("controllers", controllers);
  value.Set("features", flags);
  value.Set("effectiveCapabilities", Napi::BigInt::New(env, found.effective_capabilities));
  value.Set("apparmor", found.apparmor);
  value.Set("selinux", found.selinux);
  return value;
}

Napi::Value NetnsCreate(const Napi::CallbackInfo& info) {
  auto work = [path = text(info[0].ToObject(), "path")] { return core::netns_create(path); };
  return done(info.Env(), work, true);
}

Napi::Value NetnsDelete(const Napi::CallbackInfo& info) {
  auto work = [path = text(info[0].ToObject(), "path")] { return core::netns_delete(path); };
  return done(info.Env(), work);
}

Napi::Value MakeFifo(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  auto id = [&options](const char* name) {
    Napi::Value value = options.Get(name);
    return value.IsNumber() ? value.ToNumber().Uint32Value() : static_cast<uint32_t>(-1);
  };
  mode_t mode = options.Get("mode").ToNumber().Uint32Value();
  Status made = core::make_fifo(text(options, "path"), mode, id("uid"), id("gid"));
  if (!made) throw_error(info.Env(), made.error());
  return info.Env().Undefined();
}

Napi::Value RemoveTree(const Napi::CallbackInfo& info) {
  auto work = [path = text(info[0].ToObject(), "path")] { return core::remove_tree(path); };
  return done(info.Env(), work);
}

Napi::Value DiskUsage(const Napi::CallbackInfo& info) {
  Deferred deferred(info.Env());
  core::run_job([deferred, path = text(info[0].ToObject(), "path")] {
    Result<core::DiskUsage> usage = core::disk_usage(path);
    if (!usage) return deferred.reject(usage.error());
    deferred.resolve([found = *usage](Napi::Env env) -> Napi::Value {
      Napi::Object value = Napi::Object::New(env);
      value.Set("bytes", Napi::BigInt::New(env, found.bytes));
      value.Set("inodes", Napi::BigInt::New(env, found.inodes));
      return value;
    });
  });
  return deferred.promise();
}

Napi::Value Mount(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  std::vector<std::string> words;
  Napi::Array list = options.Get("options").As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) words.push_back(list.Get(i).ToString());
  auto work = [type = text(options, "type"), source = text(options, "source"), target = text(options, "target"),
               words] { return core::host_mount(type, source, target, words); };
  return done(info.Env(), work);
}

Napi::Value Unmount(const Napi::CallbackInfo& info) {
  auto work = [path = text(info[0].ToObject(), "path")] { return core::host_unmount(path); };
  return done(info.Env(), work);
}

Napi::Value Notify(const Napi::CallbackInfo& info) {
  Result<bool> sent = core::notify(text(info[0].ToObject(), "state"));
  if (sent) return Napi::Boolean::New(info.Env(), *sent);
  throw_error(info.Env(), sent.error());
  return info.Env().Undefined();
}

}  // namespace

void export_host(Napi::Env env, Napi::Object exports) {
  exports.Set("features", Napi::Function::New(env, Features));
  exports.Set("netnsCreate", Napi::Function::New(env, NetnsCreate));
  exports.Set("netnsDelete", Napi::Function::New(env, NetnsDelete));
  exports.Set("makeFifo", Napi::Function::New(env, MakeFifo));
  exports.Set("removeTree", Napi::Function::New(env, RemoveTree));
  exports.Set("diskUsage", Napi::Function::New(env, DiskUsage));
  exports.Set("mount", Napi::Function::New(env, Mount));
  exports.Set("unmount", Napi::Function::New(env, Unmount));
  exports.Set("notify", Napi::Function::New(env, Notify));
}

}  // namespace isopod::addon
