// FUSE messages as they come from a guest: hostile. A request is read only through Arguments, a
// reply grows only through Reply; both are the one place where their bounds are checked.
//
// request: fuse_in_header {len, opcode, unique, nodeid, uid, gid, pid}, then arguments and names
// reply:   fuse_out_header {len, error = 0 or -errno, unique}, then data
#pragma once

#include <linux/fuse.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/fd.h"

namespace isopod::fs {

// What follows the header.
class Arguments {
 public:
  Arguments(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  std::optional<T> take() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (size_ - at_ < sizeof(T)) return std::nullopt;
    T value;
    memcpy(&value, data_ + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  // A text with its zero; the zero is in the packet, not in the view.
  std::optional<const char*> text() {
    const void* end = at_ < size_ ? memchr(data_ + at_, 0, size_ - at_) : nullptr;
    if (end == nullptr) return std::nullopt;
    const char* begin = reinterpret_cast<const char*>(data_ + at_);
    at_ = static_cast<size_t>(static_cast<const uint8_t*>(end) - data_) + 1;
    return begin;
  }
  std::optional<std::string_view> bytes(size_t count) {
    if (size_ - at_ < count) return std::nullopt;
    const std::string_view view(reinterpret_cast<const char*>(data_ + at_), count);
    at_ += count;
    return view;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Data of a reply, without its header.
class Reply {
 public:
  explicit Reply(size_t limit) : limit_(limit) {}

  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&value, sizeof(T));
  }
  void append(const void* data, size_t size) {
    if (size > room()) return overflow();
    const auto* from = static_cast<const uint8_t*>(data);
    data_.insert(data_.end(), from, from + size);
  }
  void pad() { data_.resize(std::min((data_.size() + 7) & ~size_t{7}, limit_)); }
  size_t room() const { return limit_ - data_.size(); }
  size_t size() const { return data_.size(); }
  const std::vector<uint8_t>& data() const { return data_; }
  bool overflown() const { return overflown_; }

  UniqueFd file;        // OPEN and CREATE: goes along with the reply
  bool silent = false;  // FORGET has no reply

 private:
  void overflow() { overflown_ = true; }
  std::vector<uint8_t> data_;
  size_t limit_;
  bool overflown_ = false;
};

// What a handler returns: 0, or the errno that the guest is to see.
using Errno = int;

}  // namespace isopod::fs
