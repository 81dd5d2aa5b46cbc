#include "addon/options.h"

#include <errno.h>
#include <fcntl.h>

namespace isopod::addon {

Options::Options(const Napi::CallbackInfo& info) : env_(info.Env()) {
  if (info.Length() > 0 && info[0].IsObject())
    object_ = info[0].As<Napi::Object>();
  else
    refuse("options", "must be an object");
}

Napi::Value Options::refuse(const char* name, const char* why) {
  if (ok_ && !env_.IsExceptionPending()) {
    Napi::Error error = Napi::Error::New(env_, std::string(name) + ": " + why);
    error.Value().Set("code", "INVALID_ARGUMENT");
    error.Value().Set("path", name);
    error.ThrowAsJavaScriptException();
  }
  ok_ = false;
  return env_.Undefined();
}

Napi::Value Options::get(const char* name) { return ok_ ? object_.Get(name) : env_.Undefined(); }

bool Options::has(const char* name) {
  const Napi::Value value = get(name);
  return !value.IsUndefined() && !value.IsNull();
}

std::string Options::text(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsString()) return refuse(name, "must be a string"), "";
  std::string text = value.As<Napi::String>().Utf8Value();
  // The kernel would see only what is before it.
  if (text.find('\0') != std::string::npos) return refuse(name, "contains a NUL byte"), "";
  return text;
}

std::string Options::text_or(const char* name, const char* otherwise) {
  return has(name) ? text(name) : otherwise;
}

int64_t Options::number(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsNumber()) return refuse(name, "must be a number"), 0;
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= -9007199254740991.0 && number <= 9007199254740991.0) ||
      number != static_cast<double>(static_cast<int64_t>(number)))
    return refuse(name, "must be an integer"), 0;
  return static_cast<int64_t>(number);
}

int64_t Options::number_or(const char* name, int64_t otherwise) {
  return has(name) ? number(name) : otherwise;
}

bool Options::flag_or(const char* name, bool otherwise) {
  const Napi::Value value = get(name);
  if (!value.IsBoolean())
    return value.IsUndefined() ? otherwise : (refuse(name, "must be a boolean"), otherwise);
  return value.As<Napi::Boolean>().Value();
}

std::vector<uint8_t> Options::bytes(const char* name) {
  const Napi::Value value = get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    return refuse(name, "must be a Uint8Array"), std::vector<uint8_t>();
  const auto array = value.As<Napi::Uint8Array>();
  return std::vector<uint8_t>(array.Data(), array.Data() + array.ByteLength());
}

std::vector<std::string> Options::texts(const char* name) {
  std::vector<std::string> out;
  const Napi::Value value = get(name);
  if (!value.IsArray()) return refuse(name, "must be an array of strings"), out;
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsString()) return refuse(name, "must be an array of strings"), out;
    out.push_back(item.As<Napi::String>().Utf8Value());
    if (out.back().find('\0') != std::string::npos) return refuse(name, "contains a NUL byte"), out;
  }
  return out;
}

std::vector<Options> Options::objects(const char* name) {
  std::vector<Options> out;
  const Napi::Value value = get(name);
  if (!value.IsArray()) return refuse(name, "must be an array of objects"), out;
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsObject()) return refuse(name, "must be an array of objects"), out;
    out.emplace_back(env_, item.As<Napi::Object>());
  }
  return out;
}

Options Options::object(const char* name) {
  const Napi::Value value = get(name);
  Options out(env_, value.IsObject() ? value.As<Napi::Object>() : Napi::Object::New(env_));
  if (!value.IsObject()) out.refuse(name, "must be an object");
  return out;
}

int Options::borrowed(const char* name) {
  const int64_t fd = number(name);
  if (ok_ && (fd < 0 || fd > INT32_MAX)) return refuse(name, "must be a file descriptor"), -1;
  return static_cast<int>(fd);
}

UniqueFd Options::dup(const char* name, int fd) {
  if (!ok_) return UniqueFd();
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy)
    refuse(name, errno == EBADF ? "is not an open file descriptor" : "cannot be duplicated");
  return copy;
}

UniqueFd Options::duplicate(const char* name) { return dup(name, borrowed(name)); }

UniqueFd Options::taken(const char* name) {
  const int fd = borrowed(name);
  return UniqueFd(ok_ ? fd : -1);
}

std::vector<UniqueFd> Options::duplicates(const char* name) {
  std::vector<UniqueFd> out;
  const Napi::Value value = get(name);
  if (!value.IsArray()) return refuse(name, "must be an array of file descriptors"), std::move(out);
  const auto array = value.As<Napi::Array>();
  for (uint32_t i = 0; ok_ && i < array.Length(); i++) {
    const Napi::Value item = array[i];
    if (!item.IsNumber())
      return refuse(name, "must be an array of file descriptors"), std::move(out);
    out.push_back(dup(name, item.As<Napi::Number>().Int32Value()));
  }
  return out;
}

std::map<int, UniqueFd> Options::numbered_duplicates(const char* name) {
  std::map<int, UniqueFd> out;
  const Napi::Value value = get(name);
  if (!value.IsObject()) return refuse(name, "must be an object"), std::move(out);
  const auto object = value.As<Napi::Object>();
  const Napi::Array keys = object.GetPropertyNames();
  for (uint32_t i = 0; ok_ && i < keys.Length(); i++) {
    const Napi::Value key = keys[i];
    const int number = key.ToNumber().Int32Value();
    const Napi::Value item = object.Get(key);
    if (number < 3 || number > 1023 || !item.IsNumber())
      return refuse(name, "maps a number from 3 to 1023 to a file descriptor"), std::move(out);
    out[number] = dup(name, item.As<Napi::Number>().Int32Value());
  }
  return out;
}

}  // namespace isopod::addon
