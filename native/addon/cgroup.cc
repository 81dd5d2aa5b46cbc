#include "addon/cgroup.h"

#include "addon/exports.h"
#include "addon/promise.h"
#include "core/cgroup.h"
#include "core/jobs.h"

namespace isopod::addon {
namespace {

core::CgroupWrite read_write(Options& options) {
  core::CgroupWrite write;
  write.file = options.text("file");
  write.value = options.text("value");
  write.key = options.text_or("key", "");
  write.unset = options.text_or("unset", "");
  write.optional = options.flag_or("optional", false);
  write.retry = options.flag_or("retry", false);
  // A path would lead to somebody else's cgroup.
  if (options.ok() && (write.file.empty() || write.file.find('/') != std::string::npos))
    options.refuse("file", "must be the name of a file in the cgroup");
  return write;
}

Napi::Value list_of(Napi::Env env, const core::CgroupWrites& writes) {
  Napi::Array list = Napi::Array::New(env, writes.size());
  for (uint32_t i = 0; i < writes.size(); i++) {
    Napi::Object value = Napi::Object::New(env);
    value.Set("file", writes[i].file);
    value.Set("value", writes[i].value);
    if (!writes[i].key.empty()) value.Set("key", writes[i].key);
    if (!writes[i].unset.empty()) value.Set("unset", writes[i].unset);
    list.Set(i, value);
  }
  return list;
}

// A job whose only result is that it is done.
Napi::Value done(Napi::Env env, std::function<Status()> work) {
  Deferred deferred(env);
  core::run_job([deferred, work = std::move(work)] {
    Status status = work();
    status ? deferred.resolve() : deferred.reject(status.error());
  });
  return deferred.promise();
}

Napi::Value CgroupDestroy(const Napi::CallbackInfo& info) {
  Options options(info);
  std::string path = options.text("path");
  const auto timeout = static_cast<int>(options.number("timeoutMs"));
  if (!options.ok()) return info.Env().Undefined();
  return done(info.Env(), [path, timeout] { return core::cgroup_destroy(path, timeout); });
}

Napi::Value CgroupFreeze(const Napi::CallbackInfo& info) {
  Options options(info);
  std::string path = options.text("path");
  const bool frozen = options.flag_or("frozen", false);
  const auto timeout = static_cast<int>(options.number("timeoutMs"));
  if (!options.ok()) return info.Env().Undefined();
  return done(info.Env(),
              [path, frozen, timeout] { return core::cgroup_freeze(path, frozen, timeout); });
}

// In a job: a lower memory limit waits until what is above it is reclaimed.
Napi::Value CgroupWrite(const Napi::CallbackInfo& info) {
  Options options(info);
  std::string path = options.text("path");
  core::CgroupWrites writes = read_cgroup_writes(options, "writes");
  if (!options.ok()) return info.Env().Undefined();
  Deferred deferred(info.Env());
  core::run_job([deferred, path = std::move(path), writes = std::move(writes)] {
    Result<core::CgroupWrites> undo = core::cgroup_write(path, writes);
    if (!undo) return deferred.reject(undo.error());
    deferred.resolve([back = std::move(*undo)](Napi::Env env) { return list_of(env, back); });
  });
  return deferred.promise();
}

}  // namespace

core::CgroupWrites read_cgroup_writes(Options& options, const char* name) {
  core::CgroupWrites writes;
  for (Options& item : options.objects(name)) {
    writes.push_back(read_write(item));
    bool good = item.ok();
    if (good && item.has("instead")) {
      Options other = item.object("instead");
      writes.back().instead = std::make_shared<const core::CgroupWrite>(read_write(other));
      good = other.ok();
    }
    // What is wrong has been thrown.
    if (!good) return options.refuse(name, "is malformed"), core::CgroupWrites();
  }
  return writes;
}

void export_cgroup(Napi::Env env, Napi::Object exports) {
  exports.Set("cgroupDestroy", Napi::Function::New(env, CgroupDestroy));
  exports.Set("cgroupFreeze", Napi::Function::New(env, CgroupFreeze));
  exports.Set("cgroupWrite", Napi::Function::New(env, CgroupWrite));
}

}  // namespace isopod::addon
