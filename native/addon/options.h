// Reading the one options object of a call. A wrong type throws INVALID_ARGUMENT with the option's
// name; after the first, readers return empty values and `ok()` is false: the caller returns
// without acting.
#pragma once

#include <napi.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"

namespace isopod::addon {

class Options {
 public:
  explicit Options(const Napi::CallbackInfo& info);
  Options(Napi::Env env, Napi::Object object) : env_(env), object_(object) {}

  bool ok() const { return ok_; }
  bool has(const char* name);

  std::string text(const char* name);
  std::string text_or(const char* name, const char* otherwise);
  int64_t number(const char* name);
  int64_t number_or(const char* name, int64_t otherwise);
  bool flag_or(const char* name, bool otherwise);
  std::vector<uint8_t> bytes(const char* name);
  std::vector<std::string> texts(const char* name);
  // The members of a list of objects, each to be read and asked for its `ok()`.
  std::vector<Options> objects(const char* name);
  Options object(const char* name);
  // A descriptor that the caller keeps.
  int borrowed(const char* name);
  // A duplicate of a borrowed descriptor, for use after the call has returned.
  UniqueFd duplicate(const char* name);
  // A descriptor that is the addon's from here on, also if the call fails.
  UniqueFd taken(const char* name);
  std::vector<UniqueFd> duplicates(const char* name);
  std::map<int, UniqueFd> numbered_duplicates(const char* name);

  // Throws INVALID_ARGUMENT; undefined, for `return`.
  Napi::Value refuse(const char* name, const char* why);

 private:
  Napi::Value get(const char* name);
  UniqueFd dup(const char* name, int fd);

  Napi::Env env_;
  Napi::Object object_;
  bool ok_ = true;
};

}  // namespace isopod::addon
