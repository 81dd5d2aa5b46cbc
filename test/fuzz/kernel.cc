// Kernel files: a bzImage with its LZ4 payload, the ELF file in it, the boot image made of that.
// Oracle: what is accepted lies within the file and within what a kernel may load to, besides what
// the sanitizers say.
#include "vmm/kernel.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "vmm/boot_image.h"
#include "vmm/layout.h"
#include "vmm/lz4.h"

namespace {

using isopod::UniqueFd;
using namespace isopod::vmm;

void check(bool good) {
  if (!good) abort();
}

void inflate(const uint8_t* data, size_t size) {
  std::vector<uint8_t> out(size * 8);
  const auto made = lz4_block(data, size, out.data(), out.size());
  check(!made || *made <= out.size());
}

void load(const std::vector<uint8_t>& file) {
  auto vmlinux = unpack_kernel(file);
  if (!vmlinux) return;
  auto kernel = parse_kernel(vmlinux->data(), vmlinux->size());
  if (!kernel) return;
  uint64_t end = kLoadStart;
  bool entered = false;
  for (const KernelSegment& segment : kernel->segments) {
    check(segment.offset <= vmlinux->size() && segment.size <= vmlinux->size() - segment.offset);
    check(segment.size <= segment.memory && segment.address >= end);
    end = segment.address + segment.memory;
    check(end <= kLoadEnd);
    entered |= kernel->entry >= segment.address && kernel->entry - segment.address < segment.size;
  }
  check(entered);
}

// What is written for a kernel that is accepted opens again.
void image(const std::vector<uint8_t>& file) {
  UniqueFd to(memfd_create("image", MFD_CLOEXEC));
  if (BootImage::write(to.get(), file)) check(BootImage::open(std::move(to)).ok());
}

// Bytes taken for a boot image.
void header(const uint8_t* data, size_t size) {
  UniqueFd file(memfd_create("image", MFD_CLOEXEC));
  check(write(file.get(), data, size) == static_cast<ssize_t>(size));
  auto opened = BootImage::open(std::move(file));
  if (opened) check(opened->memory_end() <= kLoadEnd);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::vector<uint8_t> file(data + 1, data + size);
  switch (data[0] % 4) {
    case 0:
      inflate(file.data(), file.size());
      break;
    case 1:
      load(file);
      break;
    case 2:
      image(file);
      break;
    default:
      header(file.data(), file.size());
  }
  return 0;
}
