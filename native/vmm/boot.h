// The state in which a guest's kernel begins: PVH's start_info and what it points at, in memory,
// and the first vCPU's registers (Xen's docs/misc/pvh.pandoc).
#pragma once

#include <string>

#include "base/result.h"
#include "vmm/boot_image.h"
#include "vmm/kvm.h"
#include "vmm/memory.h"

namespace isopod::vmm {

// An initramfs: a file that is mapped, not read, so it must not change while the guest lives.
struct Initrd {
  int file = -1;
  uint64_t size = 0;
};

// Lays kernel and initramfs over memory and writes start_info, memory map and command line. An
// error if memory is too small for them or the command line too long.
Status place_boot(const GuestMemory& memory, const BootImage& image, const Initrd& initrd,
                  const std::string& command_line, uint64_t rsdp);

// Registers of vCPU 0 at the kernel's entry. What is common to all vCPUs is prepare_vcpu's.
Status enter_at(KvmVcpu& vcpu, uint64_t entry);
// FPU, boot MSRs and local interrupt lines as firmware would leave them.
Status prepare_vcpu(KvmVcpu& vcpu);

}  // namespace isopod::vmm
