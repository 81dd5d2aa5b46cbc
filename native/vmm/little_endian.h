// Numbers in files and tables, of any alignment. Both our architectures are little-endian, as are
// ELF's, ACPI's and virtio's fields here.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace isopod::vmm {

template <typename T>
T load_le(const uint8_t* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  memcpy(&value, from, sizeof(T));
  return value;
}

// A table in the making.
class Bytes {
 public:
  template <typename T>
  Bytes& add(T value) {
    static_assert(std::is_integral_v<T>);
    uint8_t raw[sizeof(T)];
    memcpy(raw, &value, sizeof(T));
    data_.insert(data_.end(), raw, raw + sizeof(T));
    return *this;
  }
  Bytes& u8(uint32_t value) { return add(static_cast<uint8_t>(value)); }
  Bytes& u16(uint32_t value) { return add(static_cast<uint16_t>(value)); }
  Bytes& u32(uint32_t value) { return add(value); }
  Bytes& u64(uint64_t value) { return add(value); }
  Bytes& text(const std::string& value) {
    data_.insert(data_.end(), value.begin(), value.end());
    return *this;
  }
  Bytes& append(const std::vector<uint8_t>& value) {
    data_.insert(data_.end(), value.begin(), value.end());
    return *this;
  }
  Bytes& zeros(size_t count) {
    data_.resize(data_.size() + count);
    return *this;
  }
  template <typename T>
  void put(size_t at, T value) {
    memcpy(data_.data() + at, &value, sizeof(T));
  }
  size_t size() const { return data_.size(); }
  std::vector<uint8_t>& data() { return data_; }
  const std::vector<uint8_t>& data() const { return data_; }

 private:
  std::vector<uint8_t> data_;
};

}  // namespace isopod::vmm
