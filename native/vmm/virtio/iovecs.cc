#include "vmm/virtio/iovecs.h"

#include <algorithm>
#include <cstring>

namespace isopod::vmm::virtio {

namespace {

// Calls use(piece, length, done) for each piece of [offset, offset + size).
template <typename Use>
size_t each(const std::vector<iovec>& pieces, size_t offset, size_t size, Use use) {
  size_t done = 0;
  for (const iovec& piece : pieces) {
    if (done == size) break;
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const size_t length = std::min(piece.iov_len - offset, size - done);
    use(static_cast<uint8_t*>(piece.iov_base) + offset, length, done);
    offset = 0;
    done += length;
  }
  return done;
}

}  // namespace

size_t gather(const std::vector<iovec>& from, size_t offset, void* to, size_t size) {
  const size_t done =
      each(from, offset, size, [to](const uint8_t* piece, size_t length, size_t at) {
        memcpy(static_cast<uint8_t*>(to) + at, piece, length);
      });
  asm volatile("" : : "r"(to) : "memory");  // what was copied is what is looked at
  return done;
}

size_t scatter(const std::vector<iovec>& to, size_t offset, const void* from, size_t size) {
  return each(to, offset, size, [from](uint8_t* piece, size_t length, size_t at) {
    memcpy(piece, static_cast<const uint8_t*>(from) + at, length);
  });
}

size_t slice(const std::vector<iovec>& from, size_t offset, size_t size, std::vector<iovec>& out) {
  return each(from, offset, size, [&out](uint8_t* piece, size_t length, size_t) {
    out.push_back({piece, length});
  });
}

}  // namespace isopod::vmm::virtio
