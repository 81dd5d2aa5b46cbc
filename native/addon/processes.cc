// Launch, exec, exits, signals, spawn.
#include <errno.h>
#include <sys/ioctl.h>

#include "addon/cgroup.h"
#include "addon/exports.h"
#include "addon/options.h"
#include "addon/promise.h"
#include "addon/systemd.h"
#include "core/base_namespace.h"
#include "core/jobs.h"
#include "core/launch.h"
#include "core/process.h"
#include "core/report.h"
#include "core/spawn.h"
#include "core/unit_place.h"

namespace isopod::addon {

namespace {

Napi::Value launched(Napi::Env env, core::Launched& value) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("pid", value.pid);
  out.Set("pidfd", value.pidfd.release());
  if (value.result) out.Set("result", value.result.release());
  if (value.pty) out.Set("pty", value.pty.release());
  return out;
}

Napi::Value exited(Napi::Env env, core::Exit& value) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("status", value.status);
  out.Set("exitedAt", Napi::BigInt::New(env, value.exited_at));
  return out;
}

Napi::Value spawned(Napi::Env env, core::Spawned& value) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("status", value.status);
  out.Set("timedOut", value.timed_out);
  out.Set("stdout", Napi::Buffer<char>::Copy(env, value.out.data(), value.out.size()));
  out.Set("stderr", Napi::Buffer<char>::Copy(env, value.err.data(), value.err.size()));
  return out;
}

// What settles `deferred` with the core's answer; `convert` runs on JavaScript's thread.
template <typename T>
std::function<void(Result<T>)> settle(const Deferred& deferred,
                                      Napi::Value (*convert)(Napi::Env, T&)) {
  return [deferred, convert](Result<T> result) {
    if (!result) return deferred.reject(result.error());
    // A std::function must be copyable; descriptors are not.
    auto value = std::make_shared<T>(std::move(*result));
    deferred.resolve([value, convert](Napi::Env env) { return convert(env, *value); });
  };
}

Napi::Value nothing(Napi::Env env, Done&) { return env.Undefined(); }
Napi::Value descriptor(Napi::Env env, UniqueFd& fd) { return Napi::Number::New(env, fd.release()); }

Napi::Value Launch(const Napi::CallbackInfo& info) {
  Options options(info);
  core::LaunchRequest request;
  request.plan = options.bytes("plan");
  if (options.has("fds")) request.fds = options.duplicates("fds");
  request.cgroup = options.text_or("cgroup", "");
  if (options.has("cgroupWrites"))
    request.cgroup_writes = read_cgroup_writes(options, "cgroupWrites");
  if (options.has("deviceProgram")) request.device_program = options.bytes("deviceProgram");
  const std::string until = options.text("until");
  request.until_exec = until == "exec";
  if (options.has("initImage")) request.init_image = options.duplicate("initImage");
  if (options.ok() && until != "exec" && until != "ready")
    options.refuse("until", "must be \"ready\" or \"exec\"");
  if (options.ok() && request.fds.size() > plan::kMaxFds) options.refuse("fds", "too many");
  if (!options.ok()) return info.Env().Undefined();
  if (options.has("unit")) {
    core::TransientUnit unit;
    if (!read_unit(info.Env(), info[0].As<Napi::Object>().Get("unit"), unit))
      return info.Env().Undefined();
    core::place_in_unit(request, std::move(unit));
  }
  const Deferred deferred(info.Env());
  core::launch(deferred.loop(), std::move(request), settle(deferred, launched));
  return deferred.promise();
}

Napi::Value AwaitExec(const Napi::CallbackInfo& info) {
  Options options(info);
  UniqueFd result = options.taken("result");
  if (!options.ok()) return info.Env().Undefined();
  const Deferred deferred(info.Env());
  core::await_exec(deferred.loop(), std::move(result), settle(deferred, nothing));
  return deferred.promise();
}

Napi::Value AwaitExit(const Napi::CallbackInfo& info) {
  Options options(info);
  core::ExitWait wait;
  wait.pidfd = options.duplicate("pidfd");
  wait.record = options.text_or("record", "");
  wait.child = options.flag_or("child", true);
  if (!options.ok()) return info.Env().Undefined();
  const Deferred deferred(info.Env());
  core::await_exit(deferred.loop(), std::move(wait), settle(deferred, exited));
  return deferred.promise();
}

Napi::Value Signal(const Napi::CallbackInfo& info) {
  Options options(info);
  const int pidfd = options.borrowed("pidfd");
  const auto number = static_cast<int>(options.number("signal"));
  if (!options.ok()) return info.Env().Undefined();
  const int err = core::send_signal(pidfd, number);
  if (err != 0 && err != ESRCH) {
    throw_error(info.Env(), failure(err, "signal", ""));
    return info.Env().Undefined();
  }
  return Napi::Boolean::New(info.Env(), err == 0);
}

Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  Options options(info);
  const auto pid = static_cast<int>(options.number("pid"));
  if (!options.ok()) return info.Env().Undefined();
  UniqueFd fd(core::pidfd_open(pid));
  if (fd) return Napi::Number::New(info.Env(), fd.release());
  if (errno != ESRCH) throw_error(info.Env(), failure(errno, "wait", std::to_string(pid)));
  return info.Env().Undefined();
}

Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  Options options(info);
  UniqueFd copy = options.duplicate("fd");
  return options.ok() ? descriptor(info.Env(), copy) : info.Env().Undefined();
}

Napi::Value Spawn(const Napi::CallbackInfo& info) {
  Options options(info);
  core::SpawnRequest request;
  request.file = options.text("file");
  request.args = options.texts("args");
  request.env = options.texts("env");
  request.cwd = options.text_or("cwd", "");
  request.has_stdin = options.has("stdin");
  if (request.has_stdin) request.input = options.bytes("stdin");
  if (options.has("fds")) request.fds = options.numbered_duplicates("fds");
  request.timeout_ms = options.number("timeoutMs");
  request.max_output = static_cast<size_t>(options.number_or("maxOutput", 1 << 20));
  if (options.ok() && (request.file.empty() || request.file[0] != '/'))
    options.refuse("file", "must be an absolute path");
  if (options.ok() && request.timeout_ms <= 0) options.refuse("timeoutMs", "must be positive");
  if (!options.ok()) return info.Env().Undefined();
  request.args.insert(request.args.begin(), request.file);
  const Deferred deferred(info.Env());
  core::spawn(std::move(request), settle(deferred, spawned));
  return deferred.promise();
}

Napi::Value ResizePty(const Napi::CallbackInfo& info) {
  Options options(info);
  const int pty = options.borrowed("pty");
  winsize size{};
  size.ws_row = static_cast<unsigned short>(options.number("rows"));
  size.ws_col = static_cast<unsigned short>(options.number("columns"));
  if (options.ok() && ::ioctl(pty, TIOCSWINSZ, &size) < 0)
    throw_error(info.Env(), failure(errno, "resize", ""));
  return info.Env().Undefined();
}

Napi::Value BaseNamespace(const Napi::CallbackInfo& info) {
  const Deferred deferred(info.Env());
  const auto done = settle(deferred, descriptor);
  if (!core::run_detached([done] { done(core::base_namespace()); }))
    deferred.reject(failure(EAGAIN, "start thread", ""));
  return deferred.promise();
}

}  // namespace

void export_processes(Napi::Env env, Napi::Object exports) {
  exports.Set("launch", Napi::Function::New(env, Launch));
  exports.Set("awaitExec", Napi::Function::New(env, AwaitExec));
  exports.Set("awaitExit", Napi::Function::New(env, AwaitExit));
  exports.Set("signal", Napi::Function::New(env, Signal));
  exports.Set("pidfdOpen", Napi::Function::New(env, PidfdOpen));
  exports.Set("duplicate", Napi::Function::New(env, Duplicate));
  exports.Set("spawn", Napi::Function::New(env, Spawn));
  exports.Set("resizePty", Napi::Function::New(env, ResizePty));
  exports.Set("baseNamespace", Napi::Function::New(env, BaseNamespace));
}

}  // namespace isopod::addon
