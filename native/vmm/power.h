// Ways for a guest to end its machine: ACPI's sleep and reset registers, and the keyboard
// controller's reset line, which is what Linux's reboot=k and our reset vector use. Nothing else of
// a keyboard controller is here, and ACPI says so.
#pragma once

#include <functional>

#include "vmm/bus.h"
#include "vmm/memory.h"
#include "vmm/vcpu.h"

namespace isopod::vmm {

// Offsets from kPowerPort.
constexpr uint64_t kSleepOffset = 0, kStatusOffset = 1, kResetOffset = 2, kPowerPorts = 3;
constexpr uint8_t kSleepS5 = 5;
constexpr uint8_t kResetCommand = 1;

// Called on a vCPU's thread.
using OnPower = std::function<void(End::Kind)>;

class PowerRegisters final : public BusDevice {
 public:
  explicit PowerRegisters(OnPower on_power) : on_power_(std::move(on_power)) {}
  void read(uint64_t offset, uint8_t* data, size_t size) override;
  void write(uint64_t offset, const uint8_t* data, size_t size) override;

 private:
  OnPower on_power_;
};

class KeyboardController final : public BusDevice {
 public:
  static constexpr uint64_t kPorts = 5;  // 0x60 to 0x64
  explicit KeyboardController(OnPower on_power) : on_power_(std::move(on_power)) {}
  // Neither input nor output waits; port 0x61, the speaker's, reads zero as well.
  void read(uint64_t offset, uint8_t* data, size_t size) override;
  void write(uint64_t offset, const uint8_t* data, size_t size) override;

 private:
  OnPower on_power_;
};

// Code at the reset vector (f000:fff0) that pulls the reset line: Linux, told that it runs on EFI
// without ACPI's legacy, ends up jumping there, and would hang in zeroes.
bool write_reset_vector(const GuestMemory& memory);

}  // namespace isopod::vmm
