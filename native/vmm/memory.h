// Guest memory. The guest chooses addresses and may change what they hold while we look, so:
// - memory is reached only through span(), which is the one place where bounds are checked;
// - a field is read once, into host memory, and judged there (never looked at twice).
//
// Layout (x86_64): [0, 3 GiB) and [4 GiB, ...), with a hole for devices between them. Each part is
// one KVM memory slot and one private mapping: no other process can share it, and a template's file
// can lie under it copy-on-write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/result.h"

namespace isopod::vmm {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kLowLimit = 0xc0000000;    // 3 GiB: the hole begins
constexpr uint64_t kHighStart = 0x100000000;  // 4 GiB: memory goes on
constexpr uint64_t kMinMemory = uint64_t{64} << 20;

// Bytes of the guest that lie inside one slot. Valid as long as the GuestMemory is.
struct Span {
  uint8_t* data = nullptr;
  size_t size = 0;
};

class GuestMemory {
 public:
  struct Slot {
    uint64_t address;  // guest physical
    uint64_t size;
    uint8_t* host;
  };

  // `bytes`: a multiple of the page size, at least kMinMemory. Not populated: a page costs when
  // touched.
  static Result<GuestMemory> create(uint64_t bytes);
  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory& operator=(GuestMemory&&) = delete;
  ~GuestMemory();

  // The bytes [address, address + size), or nothing unless all of them lie in one slot. An empty
  // range has no bytes to point at: nothing as well.
  std::optional<Span> span(uint64_t address, uint64_t size) const;

  // A copy of what is there now.
  template <typename T>
  std::optional<T> read(uint64_t address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::optional<Span> from = span(address, sizeof(T));
    if (!from) return std::nullopt;
    T value;
    memcpy(&value, from->data, sizeof(T));
    return value;
  }
  template <typename T>
  bool write(uint64_t address, const T& value) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::optional<Span> to = span(address, sizeof(T));
    if (!to) return false;
    memcpy(to->data, &value, sizeof(T));
    return true;
  }

  const std::vector<Slot>& slots() const { return slots_; }
  uint64_t bytes() const;

 private:
  GuestMemory() = default;
  std::vector<Slot> slots_;
};

}  // namespace isopod::vmm
