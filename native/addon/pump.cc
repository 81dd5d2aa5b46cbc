#include "core/pump.h"

#include <fcntl.h>

#include <cerrno>
#include <map>

#include "addon/exports.h"
#include "addon/promise.h"

namespace isopod::addon {
namespace {

// Open logs by handle; JavaScript's threads only, the file itself is shared with the pump.
std::mutex logs_mutex;
std::map<int, std::shared_ptr<core::LogFile>> logs;
int next_log = 1;

std::shared_ptr<core::LogFile> log_of(const Napi::Object& options) {
  std::lock_guard lock(logs_mutex);
  auto found = logs.find(options.Get("log").ToNumber().Int32Value());
  return found == logs.end() ? nullptr : found->second;
}

int integer(const Napi::Object& options, const char* name) {
  return options.Get(name).ToNumber().Int32Value();
}

Napi::Value LogOpen(const Napi::CallbackInfo& info) {
  Result<UniqueFd> file = core::LogFile::open(info[0].ToObject().Get("path").ToString());
  if (!file) {
    throw_error(info.Env(), file.error());
    return info.Env().Undefined();
  }
  std::lock_guard lock(logs_mutex);
  logs[next_log] = std::make_shared<core::LogFile>(std::move(*file));
  return Napi::Number::New(info.Env(), next_log++);
}

Napi::Value LogReopen(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  std::string path = options.Get("path").ToString();
  std::shared_ptr<core::LogFile> log = log_of(options);
  Result<UniqueFd> file = core::LogFile::open(path);
  if (!log || !file) {
    throw_error(info.Env(), log ? file.error() : failure(EBADF, "reopen log", path));
    return info.Env().Undefined();
  }
  log->reopen(std::move(*file));
  return info.Env().Undefined();
}

Napi::Value LogClose(const Napi::CallbackInfo& info) {
  std::lock_guard lock(logs_mutex);
  logs.erase(integer(info[0].ToObject(), "log"));
  return info.Env().Undefined();
}

// Owns `from` also when no pump comes of it.
Napi::Value start(Napi::Env env, UniqueFd from, std::unique_ptr<core::Sink> sink) {
  Result<int> handle = core::Pump::instance().start(std::move(from), std::move(sink));
  if (handle) return Napi::Number::New(env, *handle);
  throw_error(env, handle.error());
  return env.Undefined();
}

Napi::Value PumpLog(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  UniqueFd from(integer(options, "fd"));
  std::shared_ptr<core::LogFile> log = log_of(options);
  if (!log) {
    throw_error(info.Env(), failure(EBADF, "pump to log", options.Get("log").ToString()));
    return info.Env().Undefined();
  }
  bool error = options.Get("stream").ToString().Utf8Value() == "stderr";
  auto stream = error ? core::Stream::kStderr : core::Stream::kStdout;
  return start(info.Env(), std::move(from), core::log_sink(std::move(log), stream));
}

Napi::Value PumpCopy(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  UniqueFd from(integer(options, "from")), to(integer(options, "to"));
  return start(info.Env(), std::move(from), core::descriptor_sink(std::move(to)));
}

// A terminal's master cannot be opened a second time: both directions of its copy share one open file.
Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  int fd = integer(info[0].ToObject(), "fd");
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy >= 0) return Napi::Number::New(info.Env(), copy);
  throw_error(info.Env(), failure(errno, "duplicate descriptor", std::to_string(fd)));
  return info.Env().Undefined();
}

Napi::Value PumpCollect(const Napi::CallbackInfo& info) {
  Napi::Object options = info[0].ToObject();
  UniqueFd from(integer(options, "fd"));
  auto limit = static_cast<size_t>(options.Get("limit").ToNumber().Int64Value());
  return start(info.Env(), std::move(from), core::collecting_sink(limit));
}

Napi::Value PumpEnd(const Napi::CallbackInfo& info) {
  Deferred deferred(info.Env());
  int handle = integer(info[0].ToObject(), "pump");
  core::Pump::instance().on_end(handle, [deferred](std::vector<uint8_t> bytes) {
    auto shared = std::make_shared<std::vector<uint8_t>>(std::move(bytes));
    deferred.resolve([shared](Napi::Env env) -> Napi::Value {
      return Napi::Buffer<uint8_t>::Copy(env, shared->data(), shared->size());
    });
  });
  return deferred.promise();
}

Napi::Value PumpStop(const Napi::CallbackInfo& info) {
  core::Pump::instance().stop(integer(info[0].ToObject(), "pump"));
  return info.Env().Undefined();
}

}  // namespace

void export_pump(Napi::Env env, Napi::Object exports) {
  exports.Set("logOpen", Napi::Function::New(env, LogOpen));
  exports.Set("logReopen", Napi::Function::New(env, LogReopen));
  exports.Set("logClose", Napi::Function::New(env, LogClose));
  exports.Set("duplicate", Napi::Function::New(env, Duplicate));
  exports.Set("pumpLog", Napi::Function::New(env, PumpLog));
  exports.Set("pumpCopy", Napi::Function::New(env, PumpCopy));
  exports.Set("pumpCollect", Napi::Function::New(env, PumpCollect));
  exports.Set("pumpEnd", Napi::Function::New(env, PumpEnd));
  exports.Set("pumpStop", Napi::Function::New(env, PumpStop));
}

}  // namespace isopod::addon
