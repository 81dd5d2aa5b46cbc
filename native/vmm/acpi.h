// ACPI tables, by which the guest's kernel learns what there is: processors and their interrupt
// controllers (MADT), how to power off and reset (FADT), devices (DSDT). "Hardware-reduced" says
// that nothing of a PC's legacy needs to be looked for, which halves the time to boot.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "vmm/memory.h"

namespace isopod::vmm {

struct AcpiDevice {
  uint64_t base;  // of its register window
  uint64_t size;
  uint32_t gsi;
};

struct AcpiTables {
  unsigned vcpus = 1;
  bool serial = false;
  std::vector<AcpiDevice> virtio;
};

// Writes them from kAcpiStart; the address is the RSDP's.
Result<uint64_t> write_acpi(const GuestMemory& memory, const AcpiTables& tables);

}  // namespace isopod::vmm
