#include "vmm/power.h"

#include <algorithm>
#include <cstring>

#include "vmm/layout.h"

namespace isopod::vmm {

namespace {

// Sleep control register (ACPI 6.5, 4.8.3.7): the type in bits 2 to 4, bit 5 enters it.
constexpr uint8_t kSleepEnable = 1 << 5;
constexpr uint8_t kPowerOff = (kSleepS5 << 2) | kSleepEnable;

constexpr uint64_t kCommandOffset = 4;
constexpr uint8_t kPulseReset = 0xfe;

}  // namespace

void PowerRegisters::read(uint64_t, uint8_t* data, size_t size) { memset(data, 0, size); }

void PowerRegisters::write(uint64_t offset, const uint8_t* data, size_t) {
  if (offset == kSleepOffset && data[0] == kPowerOff) on_power_(End::kPowerOff);
  if (offset == kResetOffset && data[0] == kResetCommand) on_power_(End::kReset);
}

void KeyboardController::read(uint64_t, uint8_t* data, size_t size) { memset(data, 0, size); }

void KeyboardController::write(uint64_t offset, const uint8_t* data, size_t) {
  if (offset == kCommandOffset && data[0] == kPulseReset) on_power_(End::kReset);
}

bool write_reset_vector(const GuestMemory& memory) {
  constexpr uint8_t kCode[] = {
      0xb0, kPulseReset,  // mov $0xfe, %al
      0xe6, 0x64,         // out %al, $0x64
      0xf4,               // hlt
      0xeb, 0xfd,         // jmp to hlt
  };
  const auto span = memory.span(kResetVector, sizeof(kCode));
  if (span) std::copy_n(kCode, sizeof(kCode), span->data);
  return span.has_value();
}

}  // namespace isopod::vmm
