// Linux kernels as distributions ship them. `vmlinuz` is a bzImage: a real-mode part, then a small
// program that carries the kernel proper compressed (Documentation/arch/x86/boot.rst). What is
// inside, vmlinux, is an ELF file; with CONFIG_PVH its notes name an entry point that wants neither
// page tables nor BIOS: 32-bit protected mode, EBX pointing at a start_info (Xen's
// docs/misc/pvh.pandoc). Both kinds of file may be damaged or hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"

namespace isopod::vmm {

struct KernelSegment {
  uint64_t offset;   // in the file
  uint64_t size;     // bytes there
  uint64_t address;  // guest physical
  uint64_t memory;   // bytes in memory; what the file lacks is zero
};

struct Kernel {
  std::vector<KernelSegment> segments;  // by address, none overlapping another
  uint64_t entry;                       // guest physical
  uint64_t begin() const { return segments.front().address; }
  uint64_t end() const { return segments.back().address + segments.back().memory; }
};

// The vmlinux within a vmlinuz; a file that is no bzImage comes back as it is.
Result<std::vector<uint8_t>> unpack_kernel(std::vector<uint8_t> file);

// What to load, every bound checked against the file and the guest's layout.
Result<Kernel> parse_kernel(const uint8_t* file, size_t size);

}  // namespace isopod::vmm
