// Requests may be laid out in pieces of any size (virtio 1.2, 2.7.4: "the device MUST NOT make
// assumptions about the particular arrangement of descriptors"): these see many pieces as one range
// of bytes.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace isopod::vmm::virtio {

// Copies out of, or into, the bytes from `offset` on; the number copied, less than `size` where the
// range ends before. Guest memory changes under our eyes: judge the copy.
size_t gather(const std::vector<iovec>& from, size_t offset, void* to, size_t size);
size_t scatter(const std::vector<iovec>& to, size_t offset, const void* from, size_t size);

// Appends the pieces of [offset, offset + size) to `out`; the bytes appended.
size_t slice(const std::vector<iovec>& from, size_t offset, size_t size, std::vector<iovec>& out);

}  // namespace isopod::vmm::virtio
