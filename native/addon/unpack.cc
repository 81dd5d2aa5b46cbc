// The image room's calls: glue over core/unpack.h, core/layers.h and core/zstd.h. Handles live in a
// table per environment (the main thread and each unpack worker have one) and end with it.
#include "core/unpack.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/exports.h"
#include "addon/promise.h"
#include "core/jobs.h"
#include "core/layers.h"
#include "core/zstd.h"

namespace isopod::addon {
namespace {

using core::Unpack;
using core::UnpackEntry;
using core::ZstdStream;

struct UnpackHandle {
  std::unique_ptr<Unpack> unpack;
  // A call is in flight on another thread.
  std::atomic<bool> busy{false};
  // The options of the last call, whose buffers it borrows. JavaScript's thread only.
  Napi::ObjectReference borrowed;
};

struct Tables {
  std::map<uint32_t, std::shared_ptr<UnpackHandle>> unpacks;
  std::map<uint32_t, std::unique_ptr<ZstdStream>> zstds;
  uint32_t next = 1;
};

Tables& tables_of(const Napi::CallbackInfo& info) { return *static_cast<Tables*>(info.Data()); }

Napi::Value fail(Napi::Env env, const Error& error) {
  throw_error(env, error);
  return env.Undefined();
}

std::string text(const Napi::Object& options, const char* name) {
  return options.Get(name).ToString();
}

// One char per byte: file names are bytes.
std::string bytes_of(const Napi::Value& value) {
  size_t size = 0;
  napi_get_value_string_latin1(value.Env(), value, nullptr, 0, &size);
  std::string text(size, '\0');
  napi_get_value_string_latin1(value.Env(), value, text.data(), size + 1, &size);
  return text;
}

std::vector<std::string> paths_of(const Napi::Value& value) {
  std::vector<std::string> paths;
  const Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) paths.push_back(array.Get(i).ToString());
  return paths;
}

bool parse_type(const std::string& name, UnpackEntry::Type* type) {
  static const std::map<std::string, UnpackEntry::Type> types = {
      {"file", UnpackEntry::kFile},       {"directory", UnpackEntry::kDirectory},
      {"symlink", UnpackEntry::kSymlink}, {"hardlink", UnpackEntry::kHardlink},
      {"char", UnpackEntry::kChar},       {"block", UnpackEntry::kBlock},
      {"fifo", UnpackEntry::kFifo},
  };
  const auto found = types.find(name);
  if (found == types.end()) return false;
  *type = found->second;
  return true;
}

// `data` stays in JavaScript's hands.
bool parse_entry(const Napi::Object& object, UnpackEntry* entry) {
  if (!parse_type(text(object, "type"), &entry->type)) return false;
  auto number = [&object](const char* name) {
    const Napi::Value value = object.Get(name);
    return value.IsNumber() ? value.ToNumber().Uint32Value() : 0;
  };
  entry->path = bytes_of(object.Get("path"));
  entry->mode = number("mode");
  entry->uid = number("uid");
  entry->gid = number("gid");
  entry->major = number("major");
  entry->minor = number("minor");
  bool lossless = false;
  entry->mtime = object.Get("mtime").As<Napi::BigInt>().Int64Value(&lossless);
  if (const Napi::Value link = object.Get("link"); link.IsString()) entry->link = bytes_of(link);
  if (const Napi::Value data = object.Get("data"); data.IsTypedArray()) {
    const auto array = data.As<Napi::Uint8Array>();
    entry->data = array.Data();
    entry->size = array.ByteLength();
  }
  if (const Napi::Value xattrs = object.Get("xattrs"); xattrs.IsObject()) {
    const Napi::Object map = xattrs.As<Napi::Object>();
    const Napi::Array names = map.GetPropertyNames();
    for (uint32_t i = 0; i < names.Length(); i++) {
      const auto array = map.Get(names.Get(i)).As<Napi::Uint8Array>();
      entry->xattrs.emplace_back(
          bytes_of(names.Get(i)),
          std::string(reinterpret_cast<const char*>(array.Data()), array.ByteLength()));
    }
  }
  return true;
}

// The handle that the options name, borrowing them. Null, with an exception: closed, or busy.
std::shared_ptr<UnpackHandle> take(const Napi::CallbackInfo& info, const Napi::Object& options) {
  Tables& tables = tables_of(info);
  const auto found = tables.unpacks.find(options.Get("unpack").ToNumber().Uint32Value());
  if (found == tables.unpacks.end() || found->second->busy) {
    throw_error(info.Env(), Error{EBADF, "unpack", "", {}, "closed, or a call is in flight"});
    return nullptr;
  }
  found->second->borrowed = Napi::Persistent(options);
  // Should the environment end first, the reference goes with it.
  found->second->borrowed.SuppressDestruct();
  return found->second;
}

// Runs `work` on a thread of its own: a batch may wait long for the disk, and the job pool serves
// pods.
Napi::Value run(Napi::Env env, const std::shared_ptr<UnpackHandle>& handle,
                std::function<Status()> work, MakeValue make = nullptr) {
  Deferred deferred(env);
  handle->busy = true;
  auto job = [handle, deferred, work = std::move(work), make = std::move(make)] {
    Status status = work();
    handle->busy = false;
    status ? deferred.resolve(make) : deferred.reject(status.error());
  };
  if (!core::run_detached(job)) job();
  return deferred.promise();
}

Napi::Value UnpackOpen(const Napi::CallbackInfo& info) {
  auto unpack = Unpack::open(text(info[0].ToObject(), "root"));
  if (!unpack) return fail(info.Env(), unpack.error());
  Tables& tables = tables_of(info);
  auto handle = std::make_shared<UnpackHandle>();
  handle->unpack = std::move(*unpack);
  tables.unpacks[tables.next] = std::move(handle);
  return Napi::Number::New(info.Env(), tables.next++);
}

Napi::Value UnpackParents(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  auto handle = take(info, options);
  if (!handle) return info.Env().Undefined();
  Status set = handle->unpack->set_parents(paths_of(options.Get("parents")));
  return set ? info.Env().Undefined() : fail(info.Env(), set.error());
}

Napi::Value UnpackEntries(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  const Napi::Array array = options.Get("entries").As<Napi::Array>();
  auto entries = std::make_shared<std::vector<UnpackEntry>>(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) {
    if (parse_entry(array.Get(i).ToObject(), &(*entries)[i])) continue;
    return fail(info.Env(), Error{EINVAL, "unpack", (*entries)[i].path, {}, "unknown entry type"});
  }
  auto handle = take(info, options);
  if (!handle) return info.Env().Undefined();
  auto count = std::make_shared<uint32_t>(0);
  auto work = [unpack = handle->unpack.get(), entries, count]() -> Status {
    for (const UnpackEntry& entry : *entries) {
      auto outcome = unpack->apply(entry);
      if (!outcome) {
        // Whatever a deeper step names, the entry is what the image's author knows.
        Error error = std::move(outcome.error());
        if (error.subject != entry.path) error.target = entry.path;
        return error;
      }
      if (*outcome == Unpack::Outcome::kNeedsParents) break;
      ++*count;
    }
    return Done{};
  };
  return run(info.Env(), handle, work,
             [count](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, *count); });
}

Napi::Value UnpackData(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  auto data = options.Get("data").As<Napi::Uint8Array>();
  auto handle = take(info, options);
  if (!handle) return info.Env().Undefined();
  return run(info.Env(), handle,
             [unpack = handle->unpack.get(), start = data.Data(), size = data.ByteLength()] {
               return unpack->write(start, size);
             });
}

Napi::Value UnpackClose(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  const bool discard = options.Get("discard").ToBoolean();
  auto handle = take(info, options);
  if (!handle) return info.Env().Undefined();
  handle->borrowed.Reset();
  tables_of(info).unpacks.erase(options.Get("unpack").ToNumber().Uint32Value());
  auto totals = std::make_shared<core::UnpackTotals>();
  auto work = [unpack = handle->unpack.get(), totals, discard]() -> Status {
    if (discard) return Done{};
    auto finished = unpack->finish();
    if (!finished) return std::move(finished.error());
    *totals = *finished;
    return Done{};
  };
  return run(info.Env(), handle, work, [totals](Napi::Env env) -> Napi::Value {
    Napi::Object result = Napi::Object::New(env);
    result.Set("opaque", totals->opaque);
    result.Set("bytes", static_cast<double>(totals->bytes));
    result.Set("inodes", static_cast<double>(totals->inodes));
    return result;
  });
}

Napi::Value ReadLayers(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  Deferred deferred(info.Env());
  core::run_job([deferred, layers = paths_of(options.Get("layers")),
                 path = bytes_of(options.Get("path")),
                 limit = options.Get("limit").ToNumber().Uint32Value()] {
    auto read = core::read_layers(layers, path, limit);
    if (!read) return deferred.reject(read.error());
    if (!read->present) return deferred.resolve();
    deferred.resolve([data = std::move(read->data)](Napi::Env env) -> Napi::Value {
      return Napi::Buffer<char>::Copy(env, data.data(), data.size());
    });
  });
  return deferred.promise();
}

Napi::Value SyncFilesystem(const Napi::CallbackInfo& info) {
  Deferred deferred(info.Env());
  auto work = [deferred, path = text(info[0].ToObject(), "path")] {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd || syncfs(fd.get()) != 0) {
      return deferred.reject(failure(errno, "sync filesystem", path));
    }
    deferred.resolve();
  };
  if (!core::run_detached(work)) work();
  return deferred.promise();
}

Napi::Value ZstdOpen(const Napi::CallbackInfo& info) {
  auto stream = ZstdStream::open();
  if (!stream) return fail(info.Env(), stream.error());
  Tables& tables = tables_of(info);
  tables.zstds[tables.next] = std::move(*stream);
  return Napi::Number::New(info.Env(), tables.next++);
}

Napi::Value ZstdInflate(const Napi::CallbackInfo& info) {
  const Napi::Object options = info[0].ToObject();
  Tables& tables = tables_of(info);
  const auto found = tables.zstds.find(options.Get("zstd").ToNumber().Uint32Value());
  if (found == tables.zstds.end()) return fail(info.Env(), failure(EBADF, "zstd", ""));
  auto input = options.Get("input").As<Napi::Uint8Array>();
  auto output = options.Get("output").As<Napi::Uint8Array>();
  auto progress = found->second->inflate(input.Data(), input.ByteLength(), output.Data(),
                                         output.ByteLength());
  if (!progress) return fail(info.Env(), progress.error());
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("consumed", static_cast<double>(progress->consumed));
  result.Set("produced", static_cast<double>(progress->produced));
  result.Set("complete", progress->complete);
  return result;
}

Napi::Value ZstdClose(const Napi::CallbackInfo& info) {
  tables_of(info).zstds.erase(info[0].ToObject().Get("zstd").ToNumber().Uint32Value());
  return info.Env().Undefined();
}

// flock, not a pid file: the kernel lets go of it when the process dies, however it dies.
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const std::string path = text(info[0].ToObject(), "path");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return fail(info.Env(), failure(errno, "open", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return info.Env().Undefined();
    return fail(info.Env(), failure(errno, "lock", path));
  }
  return Napi::Number::New(info.Env(), fd.release());
}

}  // namespace

void export_unpack(Napi::Env env, Napi::Object exports) {
  auto* tables = new Tables;
  env.AddCleanupHook([tables] { delete tables; });
  auto add = [&](const char* name, Napi::Value (*call)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, call, name, tables));
  };
  add("unpackOpen", UnpackOpen);
  add("unpackParents", UnpackParents);
  add("unpackEntries", UnpackEntries);
  add("unpackData", UnpackData);
  add("unpackClose", UnpackClose);
  add("readLayers", ReadLayers);
  add("syncFilesystem", SyncFilesystem);
  add("zstdOpen", ZstdOpen);
  add("zstdInflate", ZstdInflate);
  add("zstdClose", ZstdClose);
  add("lockFile", LockFile);
}

}  // namespace isopod::addon
