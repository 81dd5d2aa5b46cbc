#include "vmm/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace isopod::vmm {

namespace {

Result<uint8_t*> reserve(uint64_t bytes) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return failure(errno, "guest memory", std::to_string(bytes) + " bytes");
  // Neither a core dump nor a child is to carry the guest's memory away.
  ::madvise(at, bytes, MADV_DONTDUMP);
  ::madvise(at, bytes, MADV_DONTFORK);
  return static_cast<uint8_t*>(at);
}

}  // namespace

Result<GuestMemory> GuestMemory::create(uint64_t bytes) {
  if (bytes < kMinMemory || bytes % kPageSize != 0)
    return Error{EINVAL,
                 "guest memory",
                 std::to_string(bytes) + " bytes",
                 "",
                 "must be a multiple of 4096 and at least 64 MiB",
                 nullptr};
  GuestMemory memory;
  const uint64_t low = std::min(bytes, kLowLimit);
  for (const auto& [address, size] : {std::pair{uint64_t{0}, low}, {kHighStart, bytes - low}}) {
    if (size == 0) continue;
    Result<uint8_t*> host = reserve(size);
    if (!host) return host.error();
    memory.slots_.push_back({address, size, *host});
  }
  return memory;
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept : slots_(std::exchange(other.slots_, {})) {}

GuestMemory::~GuestMemory() {
  for (const Slot& slot : slots_) ::munmap(slot.host, slot.size);
}

std::optional<Span> GuestMemory::span(uint64_t address, uint64_t size) const {
  if (size == 0) return std::nullopt;
  for (const Slot& slot : slots_) {
    if (address < slot.address) continue;
    const uint64_t offset = address - slot.address;
    // Neither sum can wrap: each side is a difference within the slot.
    if (offset < slot.size && size <= slot.size - offset)
      return Span{slot.host + offset, static_cast<size_t>(size)};
  }
  return std::nullopt;
}

uint64_t GuestMemory::bytes() const {
  uint64_t sum = 0;
  for (const Slot& slot : slots_) sum += slot.size;
  return sum;
}

}  // namespace isopod::vmm
