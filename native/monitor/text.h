// Bounded text without an allocator. What does not fit marks the text as failed; it is never cut silently.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace isopod::monitor {

template <size_t N>
class Text {
 public:
  Text() = default;
  explicit Text(std::string_view text) { *this << text; }

  Text& operator<<(std::string_view text) {
    if (text.size() >= N - size_) {
      failed_ = true;
      return *this;
    }
    memcpy(data_ + size_, text.data(), text.size());
    size_ += text.size();
    data_[size_] = '\0';
    return *this;
  }

  Text& operator<<(int64_t number) {
    char digits[24];
    size_t at = sizeof digits;
    uint64_t rest = number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
    do {
      digits[--at] = static_cast<char>('0' + rest % 10);
      rest /= 10;
    } while (rest != 0);
    if (number < 0) digits[--at] = '-';
    return *this << std::string_view(digits + at, sizeof digits - at);
  }

  void clear() {
    size_ = 0;
    failed_ = false;
    data_[0] = '\0';
  }
  // Cuts back to an earlier size().
  void resize(size_t size) {
    if (size < size_) size_ = size;
    data_[size_] = '\0';
  }

  bool ok() const { return !failed_; }
  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  const char* c_str() const { return data_; }
  std::string_view view() const { return {data_, size_}; }

 private:
  char data_[N] = {};
  size_t size_ = 0;
  bool failed_ = false;
};

using PathText = Text<4096>;
// sun_path holds 107 bytes and a NUL.
using SocketText = Text<108>;

inline bool starts_with(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && memcmp(text.data(), prefix.data(), prefix.size()) == 0;
}

inline bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() &&
         memcmp(text.data() + text.size() - suffix.size(), suffix.data(), suffix.size()) == 0;
}

// The directory part of an absolute path; "" if it has none.
inline std::string_view directory_of(std::string_view path) {
  size_t end = path.size();
  while (end > 0 && path[end - 1] != '/') --end;
  return end == 0 ? std::string_view() : std::string_view(path.data(), end == 1 ? 1 : end - 1);
}

}  // namespace isopod::monitor
