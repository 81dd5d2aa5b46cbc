// The bytes of one fuzz input, taken from the front; zeroes where they end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  template <typename T>
  T take() {
    T value{};
    const size_t n = size_ < sizeof(T) ? size_ : sizeof(T);
    memcpy(&value, data_, n);
    skip(n);
    return value;
  }
  uint8_t byte() { return take<uint8_t>(); }
  // 0 to limit - 1.
  uint32_t below(uint32_t limit) { return byte() % limit; }
  std::string bytes(size_t count) {
    const size_t n = size_ < count ? size_ : count;
    std::string text(reinterpret_cast<const char*>(data_), n);
    skip(n);
    text.resize(count);
    return text;
  }

 private:
  void skip(size_t n) {
    data_ += n;
    size_ -= n;
  }
  const uint8_t* data_;
  size_t size_;
};

}  // namespace fuzz
