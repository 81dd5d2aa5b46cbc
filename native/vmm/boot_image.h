// A kernel laid out as guest memory. Made once from a vmlinuz or vmlinux; a machine maps it private
// over its memory at start. So booting copies nothing, and all guests of one kernel share the pages
// that they do not write through the page cache.
//
// The file: one page of header, then what belongs at guest physical `base`, page by page. Whoever
// makes it renames it into place whole; it is never changed or truncated afterwards (a guest that
// touches a page beyond the file's end would kill its VMM by SIGBUS).
#pragma once

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/memory.h"

namespace isopod::vmm {

class BootImage {
 public:
  // Writes the image of a kernel file's content to an empty file.
  static Status write(int to, std::vector<uint8_t> kernel);
  // Reads and judges the header. Takes the descriptor.
  static Result<BootImage> open(UniqueFd file);

  // Lays it over guest memory: before the first vCPU runs.
  Status map(const GuestMemory& memory) const;

  uint64_t entry() const { return entry_; }
  // The guest physical end of all that the kernel claims at once.
  uint64_t memory_end() const { return memory_end_; }

 private:
  UniqueFd file_;
  uint64_t entry_ = 0;
  uint64_t base_ = 0;
  uint64_t size_ = 0;
  uint64_t memory_end_ = 0;
};

// Lays `size` bytes of a file, from `offset`, over guest memory at `address`, privately; all three
// page aligned but for the size. What follows in the last page is zero.
Status map_file(const GuestMemory& memory, uint64_t address, int file, uint64_t offset,
                uint64_t size);

}  // namespace isopod::vmm
