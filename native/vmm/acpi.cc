#include "vmm/acpi.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <utility>

#include "vmm/aml.h"
#include "vmm/layout.h"
#include "vmm/little_endian.h"
#include "vmm/power.h"

namespace isopod::vmm {

namespace {

constexpr size_t kHeaderSize = 36, kLengthAt = 4, kChecksumAt = 9;

uint8_t checksum(const uint8_t* data, size_t size) {
  const unsigned sum = std::accumulate(data, data + size, 0u);
  return static_cast<uint8_t>(0u - sum);
}

// An SDT's header (5.2.6); finish() fills in length and checksum.
Bytes table(const char* signature, uint32_t revision) {
  Bytes out;
  out.text(signature).u32(0).u8(revision).u8(0).text("ISOPOD").text("MICROVM ").u32(1);
  out.text("ISOP").u32(1);
  return out;
}

std::vector<uint8_t> finish(Bytes table) {
  table.put(kLengthAt, static_cast<uint32_t>(table.size()));
  table.data()[kChecksumAt] = checksum(table.data().data(), table.size());
  return std::move(table.data());
}

// Generic address structure: an 8-bit I/O port.
Bytes& port(Bytes& out, uint64_t address) { return out.u8(1).u8(8).u8(0).u8(1).u64(address); }

std::vector<uint8_t> dsdt(const AcpiTables& tables) {
  std::vector<aml::Code> devices;
  if (tables.serial)
    devices.push_back(aml::device(
        "COM1", {aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(0)),
                 aml::name("_CRS", aml::resources({aml::ports(kSerialPort, 8),
                                                   aml::interrupt(kSerialGsi)}))}));
  for (size_t i = 0; i < tables.virtio.size(); i++) {
    const AcpiDevice& device = tables.virtio[i];
    char name[5];
    snprintf(name, sizeof(name), "VR%02X", static_cast<unsigned>(i & 0xff));
    devices.push_back(aml::device(
        name, {aml::name("_HID", aml::string("LNRO0005")),
               aml::name("_UID", aml::integer(static_cast<uint32_t>(i))),
               aml::name("_CCA", aml::integer(1)),
               aml::name("_CRS", aml::resources({aml::memory32(static_cast<uint32_t>(device.base),
                                                               static_cast<uint32_t>(device.size)),
                                                 aml::interrupt(device.gsi)}))}));
  }
  Bytes out = table("DSDT", 6);
  out.append(aml::scope("\\_SB_", devices));
  const aml::Code zero = aml::integer(0);
  out.append(aml::name("\\_S5_", aml::package({aml::integer(kSleepS5), zero, zero, zero})));
  return finish(std::move(out));
}

// 5.2.9. What is zero here has no meaning on hardware-reduced machines.
std::vector<uint8_t> fadt(uint64_t dsdt_address) {
  constexpr size_t kDsdt = 40, kBootArch = 109, kFlags = 112, kResetReg = 116, kResetValue = 128,
                   kMinor = 131, kXDsdt = 140, kSleepControl = 244, kSleepStatus = 256,
                   kHypervisor = 268, kSize = 276;
  constexpr uint16_t kNoVga = 1 << 2, kNoMsi = 1 << 3, kNoCmosRtc = 1 << 5;
  constexpr uint32_t kWbinvd = 1 << 0, kNoPowerButton = 1 << 4, kNoSleepButton = 1 << 5,
                     kResetSupported = 1 << 10, kHardwareReduced = 1 << 20;
  Bytes out = table("FACP", 6);
  out.zeros(kSize - kHeaderSize);
  out.put(kDsdt, static_cast<uint32_t>(dsdt_address));
  out.put(kBootArch, static_cast<uint16_t>(kNoVga | kNoMsi | kNoCmosRtc));
  out.put(kFlags, kWbinvd | kNoPowerButton | kNoSleepButton | kResetSupported | kHardwareReduced);
  out.put(kResetValue, kResetCommand);
  out.put(kMinor, uint8_t{5});
  out.put(kXDsdt, dsdt_address);
  for (const auto& [at, address] : {std::pair{kResetReg, kPowerPort + kResetOffset},
                                    {kSleepControl, kPowerPort + kSleepOffset},
                                    {kSleepStatus, kPowerPort + kStatusOffset}}) {
    Bytes register_address;
    port(register_address, address);
    std::copy(register_address.data().begin(), register_address.data().end(),
              out.data().begin() + static_cast<std::ptrdiff_t>(at));
  }
  const std::string hypervisor = "ISOPOD";
  std::copy(hypervisor.begin(), hypervisor.end(),
            out.data().begin() + static_cast<std::ptrdiff_t>(kHypervisor));
  return finish(std::move(out));
}

std::vector<uint8_t> madt(unsigned vcpus) {
  Bytes out = table("APIC", 5);
  out.u32(kLocalApic).u32(0);
  out.u8(1).u8(12).u8(0).u8(0).u32(kIoapic).u32(0);
  for (unsigned i = 0; i < vcpus; i++) out.u8(0).u8(8).u8(i).u8(i).u32(1);
  return finish(std::move(out));
}

}  // namespace

Result<uint64_t> write_acpi(const GuestMemory& memory, const AcpiTables& tables) {
  uint64_t at = kAcpiStart + 64;  // behind the RSDP
  bool fits = true;
  const auto place = [&](const std::vector<uint8_t>& bytes) {
    const uint64_t address = at;
    const auto span = memory.span(address, bytes.size());
    if (!span || address + bytes.size() > kAcpiEnd) {
      fits = false;
      return address;
    }
    std::copy(bytes.begin(), bytes.end(), span->data);
    at = (address + bytes.size() + 15) & ~uint64_t{15};
    return address;
  };
  const uint64_t facp = place(fadt(place(dsdt(tables))));
  const uint64_t apic = place(madt(tables.vcpus));
  Bytes list = table("XSDT", 1);
  list.u64(facp).u64(apic);
  const uint64_t xsdt = place(finish(std::move(list)));

  // 5.2.5: the first checksum is over the 20 bytes of ACPI 1.0, the second over all.
  Bytes rsdp;
  rsdp.text("RSD PTR ").u8(0).text("ISOPOD").u8(2).u32(0).u32(36).u64(xsdt).u8(0).zeros(3);
  rsdp.data()[8] = checksum(rsdp.data().data(), 20);
  rsdp.data()[32] = checksum(rsdp.data().data(), rsdp.size());
  at = kAcpiStart;
  place(rsdp.data());
  if (!fits) return failure(ENOSPC, "boot", "ACPI tables");
  return kAcpiStart;
}

}  // namespace isopod::vmm
