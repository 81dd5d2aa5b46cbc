#include "vmm/boot.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "vmm/layout.h"
#include "vmm/little_endian.h"

namespace isopod::vmm {

namespace {

// struct hvm_start_info, hvm_modlist_entry, hvm_memmap_table_entry
// (xen/interface/hvm/start_info.h).
struct StartInfo {
  uint32_t magic = 0x336ec578;
  uint32_t version = 1;
  uint32_t flags = 0;
  uint32_t modules = 0;
  uint64_t module_list = 0;
  uint64_t command_line = kCommandLine;
  uint64_t rsdp = 0;
  uint64_t memory_map = kMemoryMap;
  uint32_t memory_map_entries = 0;
  uint32_t reserved = 0;
};
struct Module {
  uint64_t address;
  uint64_t size;
  uint64_t command_line;
  uint64_t reserved;
};
struct MapEntry {
  uint64_t address;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56 && sizeof(Module) == 32 && sizeof(MapEntry) == 24);
static_assert(kStartInfo + sizeof(StartInfo) <= kModuleList);

constexpr uint32_t kUsable = 1, kReserved = 2;

Error refuse(int err, const char* subject, std::string why) {
  return Error{err, "boot", subject, "", std::move(why), "INVALID_ARGUMENT"};
}

std::string mib(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// At the top of low memory, where it is furthest from the kernel. Also judges whether all fits.
Result<uint64_t> place_initrd(const GuestMemory& memory, const BootImage& image, uint64_t size) {
  const uint64_t pages = (size + kPageSize - 1) & ~(kPageSize - 1);
  const uint64_t low = memory.slots().front().size;
  const uint64_t needed = image.memory_end() + kRoomBeside + pages;
  if (needed < pages || needed > low) {
    if (low < kLowLimit)
      return refuse(0, "kernel and initramfs",
                    "need at least " + mib(needed) + " of memory, the machine has " + mib(low));
    return refuse(0, "initramfs", mib(size) + " do not fit below 3 GiB");
  }
  return low - pages;
}

uint32_t write_memory_map(const GuestMemory& memory) {
  std::vector<MapEntry> map = {{0, kReservedStart, kUsable, 0},
                               {kReservedStart, kLoadStart - kReservedStart, kReserved, 0}};
  for (const GuestMemory::Slot& slot : memory.slots()) {
    const uint64_t skip = slot.address == 0 ? kLoadStart : 0;
    map.push_back({slot.address + skip, slot.size - skip, kUsable, 0});
  }
  for (size_t i = 0; i < map.size(); i++) memory.write(kMemoryMap + i * sizeof(MapEntry), map[i]);
  return static_cast<uint32_t>(map.size());
}

}  // namespace

Status place_boot(const GuestMemory& memory, const BootImage& image, const Initrd& initrd,
                  const std::string& command_line, uint64_t rsdp) {
  if (command_line.size() > kMaxCommandLine)
    return refuse(0, "command line",
                  std::to_string(command_line.size()) + " bytes, of which Linux takes 2047");
  if (command_line.find('\0') != std::string::npos) return refuse(0, "command line", "holds a NUL");
  Result<uint64_t> at = place_initrd(memory, image, initrd.size);
  if (!at) return at.error();
  if (Status done = image.map(memory); !done) return done;

  StartInfo info;
  info.rsdp = rsdp;
  if (initrd.size > 0) {
    if (Status done = map_file(memory, *at, initrd.file, 0, initrd.size); !done) return done;
    info.modules = 1;
    info.module_list = kModuleList;
    memory.write(kModuleList, Module{*at, initrd.size, 0, 0});
  }
  info.memory_map_entries = write_memory_map(memory);
  const auto text = memory.span(kCommandLine, command_line.size() + 1);
  memcpy(text->data, command_line.c_str(), command_line.size() + 1);
  memory.write(kStartInfo, info);
  return Done{};
}

Status enter_at(KvmVcpu& vcpu, uint64_t entry) {
  Result<kvm_sregs> found = vcpu.sregs();
  if (!found) return found.error();
  kvm_sregs& sregs = *found;
  kvm_segment flat{};
  flat.limit = 0xffffffff;
  flat.present = 1;
  flat.s = 1;
  flat.db = 1;
  flat.g = 1;
  kvm_segment code = flat, data = flat, task{};
  code.type = 0xb;  // execute, read, accessed
  code.selector = 0x8;
  data.type = 0x3;  // read, write, accessed
  data.selector = 0x10;
  task.type = 0xb;  // 32-bit TSS, busy
  task.limit = 0x67;
  task.present = 1;
  sregs.cs = code;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.tr = task;
  constexpr uint64_t kProtected = 1, kExtension = 1 << 4;
  sregs.cr0 = kProtected | kExtension;
  sregs.cr4 = 0;
  sregs.efer = 0;
  if (Status done = vcpu.set_sregs(sregs); !done) return done;
  kvm_regs regs{};
  regs.rip = entry;
  regs.rbx = kStartInfo;
  regs.rflags = 2;
  return vcpu.set_regs(regs);
}

Status prepare_vcpu(KvmVcpu& vcpu) {
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;
  fpu.mxcsr = 0x1f80;
  if (Status done = vcpu.set_fpu(fpu); !done) return done;
  constexpr uint32_t kMiscEnable = 0x1a0, kMtrrDefaultType = 0x2ff;
  // Fast strings; MTRRs on, write-back: newer kernels leave PAT alone without.
  if (Status done = vcpu.set_msrs({{kMiscEnable, 0, 1}, {kMtrrDefaultType, 0, 0x806}}); !done)
    return done;
  Result<kvm_lapic_state> lapic = vcpu.lapic();
  if (!lapic) return lapic.error();
  // Delivery mode, bits 8 to 10 of LINT0 and LINT1: external interrupt and NMI.
  for (const auto& [at, mode] : {std::pair{0x350, 7u}, {0x360, 4u}}) {
    auto* bytes = reinterpret_cast<uint8_t*>(lapic->regs) + at;
    uint32_t value = (load_le<uint32_t>(bytes) & ~0x700u) | (mode << 8);
    memcpy(bytes, &value, sizeof(value));
  }
  return vcpu.set_lapic(*lapic);
}

}  // namespace isopod::vmm
