#include "vmm/serial.h"

#include <unistd.h>

#include <cstring>
#include <utility>

namespace isopod::vmm {

namespace {

constexpr uint64_t kData = 0, kInterruptEnable = 1, kIdentify = 2, kLineControl = 3,
                   kModemControl = 4, kLineStatus = 5, kModemStatus = 6, kScratch = 7;
constexpr uint8_t kDivisorAccess = 0x80;                              // LCR
constexpr uint8_t kWantEmpty = 0x02;                                  // IER
constexpr uint8_t kNonePending = 0x01, kEmpty = 0x02, kFifos = 0xc0;  // IIR
constexpr uint8_t kTransmitterIdle = 0x60;  // LSR; 0 stalls Linux for 15 s
constexpr uint8_t kCarrierAndReady = 0xb0;  // MSR
constexpr size_t kMaxLine = 512;

}  // namespace

Serial::Serial(size_t keep, UniqueFd interrupt, UniqueFd copy)
    : interrupt_(std::move(interrupt)), copy_(std::move(copy)), ring_(keep) {}

void Serial::read(uint64_t offset, uint8_t* data, size_t size) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < size; i++) data[i] = read_register(offset + i);
}

void Serial::write(uint64_t offset, const uint8_t* data, size_t size) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < size; i++) write_register(offset + i, data[i]);
}

uint8_t Serial::read_register(uint64_t offset) {
  const bool divisor = (registers_.control & kDivisorAccess) != 0;
  switch (offset) {
    case kData:
      return divisor ? registers_.divisor[0] : 0;
    case kInterruptEnable:
      return divisor ? registers_.divisor[1] : registers_.enable;
    case kIdentify: {
      const uint8_t cause = registers_.pending != 0 ? kEmpty : kNonePending;
      registers_.pending = 0;
      return static_cast<uint8_t>(cause | (registers_.fifo != 0 ? kFifos : 0));
    }
    case kLineControl:
      return registers_.control;
    case kModemControl:
      return registers_.modem;
    case kLineStatus:
      return kTransmitterIdle;
    case kModemStatus:
      return kCarrierAndReady;
    case kScratch:
      return registers_.scratch;
    default:
      return 0xff;
  }
}

void Serial::write_register(uint64_t offset, uint8_t value) {
  const bool divisor = (registers_.control & kDivisorAccess) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        registers_.divisor[0] = value;
        return;
      }
      put(value);
      transmitter_empty();
      return;
    case kInterruptEnable: {
      if (divisor) {
        registers_.divisor[1] = value;
        return;
      }
      const bool before = (registers_.enable & kWantEmpty) != 0;
      registers_.enable = value & 0x0f;
      if (!before) transmitter_empty();
      return;
    }
    case kIdentify:  // FIFO control, when written
      registers_.fifo = value & 1;
      return;
    case kLineControl:
      registers_.control = value;
      return;
    case kModemControl:
      registers_.modem = value & 0x1f;
      return;
    case kScratch:
      registers_.scratch = value;
      return;
    default:
      return;
  }
}

// Output is done the moment it is written: an edge on the line, if the driver asked for it.
void Serial::transmitter_empty() {
  if ((registers_.enable & kWantEmpty) == 0) return;
  registers_.pending = 1;
  if (!interrupt_) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(interrupt_.get(), &one, sizeof(one));
}

void Serial::put(uint8_t byte) {
  if (!ring_.empty()) {
    ring_[next_] = byte;
    next_ = (next_ + 1) % ring_.size();
    wrapped_ |= next_ == 0;
  }
  if (!copy_) return;
  line_ += static_cast<char>(byte);
  if (byte == '\n' || line_.size() >= kMaxLine) flush_locked();
}

void Serial::flush_locked() {
  if (line_.empty()) return;
  [[maybe_unused]] const ssize_t n = ::write(copy_.get(), line_.data(), line_.size());
  line_.clear();
}

void Serial::flush() {
  std::lock_guard lock(mutex_);
  flush_locked();
}

std::string Serial::text() const {
  std::lock_guard lock(mutex_);
  const auto* bytes = reinterpret_cast<const char*>(ring_.data());
  std::string out;
  if (wrapped_) out.append(bytes + next_, ring_.size() - next_);
  return out.append(bytes, next_);
}

std::vector<uint8_t> Serial::save() const {
  std::lock_guard lock(mutex_);
  std::vector<uint8_t> state(sizeof(registers_));
  memcpy(state.data(), &registers_, sizeof(registers_));
  return state;
}

bool Serial::load(const std::vector<uint8_t>& state) {
  std::lock_guard lock(mutex_);
  if (state.size() != sizeof(registers_)) return false;
  memcpy(&registers_, state.data(), sizeof(registers_));
  return true;
}

}  // namespace isopod::vmm
