// What a fallible function returns: a value, or {errno, step, subject}. core/error_text.h words it.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace isopod {

struct Error {
  int err = 0;                 // errno; 0: `why` says it
  const char* step = "";       // static: what was being done, e.g. "mount"
  std::string subject;         // the object: a path, an option
  std::string target;          // where to, if the step has two objects
  std::string why;             // replaces strerror(err) if set
  const char* code = nullptr;  // errdefs word, if the errno's usual one would mislead
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : value_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return value_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& operator*() { return *std::get_if<0>(&value_); }
  T* operator->() { return std::get_if<0>(&value_); }
  Error& error() { return *std::get_if<1>(&value_); }

 private:
  std::variant<T, Error> value_;
};

struct Done {};
using Status = Result<Done>;

inline Error failure(int err, const char* step, std::string subject) {
  return Error{err, step, std::move(subject), {}, {}, nullptr};
}

}  // namespace isopod
