// What lies where in the guest's physical address space (x86_64), beside memory.h's two slots.
//
//   0x6000       start_info, its module list, 0x7000 the memory map
//   0x20000      command line
//   0x9fc00      reserved up to 1 MiB: ACPI tables, reset vector
//   1 MiB …      memory; the kernel where it was linked to (16 MiB), the initramfs at the low top
//   3 GiB …      the hole: virtio windows, IOAPIC, local APICs, TSS
//   4 GiB …      the rest of memory
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/memory.h"

namespace isopod::vmm {

constexpr uint64_t kStartInfo = 0x6000;
constexpr uint64_t kModuleList = 0x6040;
constexpr uint64_t kMemoryMap = 0x7000;
constexpr uint64_t kCommandLine = 0x20000;
constexpr size_t kMaxCommandLine = 2047;  // COMMAND_LINE_SIZE less its NUL
constexpr uint64_t kReservedStart = 0x9fc00;
constexpr uint64_t kAcpiStart = 0xe0000;
constexpr uint64_t kAcpiEnd = 0xf0000;
constexpr uint64_t kResetVector = 0xffff0;

constexpr uint64_t kLoadStart = 0x100000;             // no kernel below
constexpr uint64_t kLoadEnd = uint64_t{1} << 30;      // nor above
constexpr uint64_t kRoomBeside = uint64_t{24} << 20;  // what Linux needs beyond its image to boot

constexpr uint64_t kVirtioBase = 0xd0000000;
constexpr uint64_t kVirtioStep = 0x1000;
constexpr unsigned kMaxVirtio = 19;  // lines 5 to 23 of the one IOAPIC
constexpr uint32_t kVirtioFirstGsi = 5;
constexpr uint64_t kIoapic = 0xfec00000;
constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint64_t kTss = 0xfffbd000;

constexpr uint64_t kSerialPort = 0x3f8;
constexpr uint32_t kSerialGsi = 4;
constexpr uint64_t kKeyboardPort = 0x60;
constexpr uint64_t kPowerPort = 0x600;  // sleep control, sleep status, reset

constexpr unsigned kMaxVcpus = 64;

}  // namespace isopod::vmm
