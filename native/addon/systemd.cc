#include "addon/systemd.h"

#include "addon/exports.h"
#include "addon/options.h"
#include "addon/promise.h"
#include "core/systemd_unit.h"

namespace isopod::addon {

namespace {

using core::BusValue;
using core::UnitProperty;

struct Range {
  char type;
  int bits;
  bool is_signed;
};
constexpr Range kRanges[] = {{'y', 8, false},  {'n', 16, true}, {'q', 16, false}, {'i', 32, true},
                             {'u', 32, false}, {'x', 64, true}, {'t', 64, false}};

// Numbers and bigints alike; false if it does not fit.
bool read_integer(const Napi::Value& value, const Range& range, uint64_t& out) {
  bool lossless = true;
  if (value.IsBigInt()) {
    const auto number = value.As<Napi::BigInt>();
    out = range.is_signed ? static_cast<uint64_t>(number.Int64Value(&lossless))
                          : number.Uint64Value(&lossless);
  } else {
    if (!value.IsNumber()) return false;
    const double number = value.As<Napi::Number>().DoubleValue();
    if (!(number >= -9007199254740991.0 && number <= 9007199254740991.0)) return false;
    const auto integer = static_cast<int64_t>(number);
    if (static_cast<double>(integer) != number || (integer < 0 && !range.is_signed)) return false;
    out = static_cast<uint64_t>(integer);
  }
  if (!lossless || range.bits == 64) return lossless;
  if (!range.is_signed) return out >> range.bits == 0;
  const auto number = static_cast<int64_t>(out);
  const int64_t bound = int64_t{1} << (range.bits - 1);
  return number >= -bound && number < bound;
}

bool read_value(const Napi::Value& value, const std::string& signature, BusValue& out);

// An array's members all have the one type; a structure's each its own.
bool read_members(const Napi::Value& value, const std::string& types, bool array, BusValue& out) {
  if (!value.IsArray()) return false;
  const auto list = value.As<Napi::Array>();
  size_t at = 0;
  for (uint32_t i = 0; i < list.Length(); i++) {
    const size_t length = core::first_type(types.c_str() + at);
    if (length == 0) return false;
    out.items.emplace_back();
    if (!read_value(list.Get(i), types.substr(at, length), out.items.back())) return false;
    if (!array) at += length;
  }
  return array || at == types.size();
}

bool read_value(const Napi::Value& value, const std::string& signature, BusValue& out) {
  switch (signature[0]) {
    case 's':
    case 'o':
    case 'g':
      if (!value.IsString()) return false;
      out.text = value.As<Napi::String>().Utf8Value();
      return out.text.find('\0') == std::string::npos;
    case 'b':
      if (!value.IsBoolean()) return false;
      out.number = value.As<Napi::Boolean>().Value() ? 1 : 0;
      return true;
    case 'a':
      if (signature == "ay" && value.IsTypedArray()) {
        const auto bytes = value.As<Napi::Uint8Array>();
        out.text.assign(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength());
        return true;
      }
      return signature != "ay" && read_members(value, signature.substr(1), true, out);
    case '(':
    case '{':
      return read_members(value, signature.substr(1, signature.size() - 2), false, out);
    default:
      for (const Range& range : kRanges)
        if (range.type == signature[0]) return read_integer(value, range, out.number);
      return false;
  }
}

bool refuse(Napi::Env env, const std::string& name, const char* why) {
  Napi::Error error = Napi::Error::New(env, name + ": " + why);
  error.Value().Set("code", "INVALID_ARGUMENT");
  error.Value().Set("path", name);
  error.ThrowAsJavaScriptException();
  return false;
}

bool read_property(Napi::Env env, const Napi::Value& value, UnitProperty& property) {
  if (!value.IsObject()) return refuse(env, "properties", "must be objects");
  const auto object = value.As<Napi::Object>();
  property.name = object.Get("name").ToString();
  property.signature = object.Get("signature").ToString();
  if (!core::is_one_type(property.signature))
    return refuse(env, property.name, "its signature is not one type of D-Bus");
  if (!read_value(object.Get("value"), property.signature, property.value))
    return refuse(env, property.name, "its value is not of the signature's type");
  return true;
}

core::UnitDone settle(const Deferred& deferred) {
  return
      [deferred](Status status) { status ? deferred.resolve() : deferred.reject(status.error()); };
}

Napi::Value UnitSet(const Napi::CallbackInfo& info) {
  core::TransientUnit unit;
  if (!read_unit(info.Env(), info[0], unit)) return info.Env().Undefined();
  const Deferred deferred(info.Env());
  core::unit_set(std::move(unit), settle(deferred));
  return deferred.promise();
}

Napi::Value UnitStop(const Napi::CallbackInfo& info) {
  Options options(info);
  const std::string name = options.text("name");
  const auto timeout = static_cast<int>(options.number("timeoutMs"));
  if (!options.ok()) return info.Env().Undefined();
  const Deferred deferred(info.Env());
  core::unit_stop(name, timeout, settle(deferred));
  return deferred.promise();
}

Napi::Value UnitRead(const Napi::CallbackInfo& info) {
  Options options(info);
  const std::string name = options.text_or("name", "");
  const std::string interface = options.text("interface");
  const std::string property = options.text("property");
  const auto timeout = static_cast<int>(options.number("timeoutMs"));
  if (!options.ok()) return info.Env().Undefined();
  const Deferred deferred(info.Env());
  core::unit_read(name, interface, property, timeout, [deferred](Result<std::string> text) {
    if (!text) return deferred.reject(text.error());
    deferred.resolve(
        [text = *text](Napi::Env env) -> Napi::Value { return Napi::String::New(env, text); });
  });
  return deferred.promise();
}

}  // namespace

bool read_unit(Napi::Env env, const Napi::Value& value, core::TransientUnit& unit) {
  if (!value.IsObject()) return refuse(env, "unit", "must be an object");
  const auto object = value.As<Napi::Object>();
  const Napi::Value name = object.Get("name"), properties = object.Get("properties"),
                    timeout = object.Get("timeoutMs");
  if (!name.IsString()) return refuse(env, "name", "must be a string");
  if (!properties.IsArray()) return refuse(env, "properties", "must be an array");
  if (!timeout.IsNumber()) return refuse(env, "timeoutMs", "must be a number");
  unit.name = name.As<Napi::String>().Utf8Value();
  unit.timeout_ms = timeout.As<Napi::Number>().Int32Value();
  const auto list = properties.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    unit.properties.emplace_back();
    if (!read_property(env, list.Get(i), unit.properties.back())) return false;
  }
  return true;
}

void export_systemd(Napi::Env env, Napi::Object exports) {
  exports.Set("unitSet", Napi::Function::New(env, UnitSet));
  exports.Set("unitStop", Napi::Function::New(env, UnitStop));
  exports.Set("unitRead", Napi::Function::New(env, UnitRead));
}

}  // namespace isopod::addon
