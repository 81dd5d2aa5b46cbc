// A 16550 serial port, output only: the guest kernel's first and last words. What it says is the
// guest's choice, so of it the last bytes are kept and no more, and a reader that is slow loses
// some.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "vmm/bus.h"

namespace isopod::vmm {

class Serial final : public BusDevice {
 public:
  static constexpr uint64_t kPorts = 8;

  // `keep`: bytes of the end that text() gives. `interrupt`: an eventfd wired to the port's line.
  // `copy`, if any: a non-blocking descriptor that gets all output by lines; what it does not take
  // at once is dropped.
  Serial(size_t keep, UniqueFd interrupt, UniqueFd copy);

  void read(uint64_t offset, uint8_t* data, size_t size) override;
  void write(uint64_t offset, const uint8_t* data, size_t size) override;

  // The last bytes written. Any thread.
  std::string text() const;
  // Hands over an unfinished line.
  void flush();
  int interrupt_fd() const { return interrupt_.get(); }

  // Registers, for a snapshot; output is not part of it.
  std::vector<uint8_t> save() const;
  bool load(const std::vector<uint8_t>& state);

 private:
  uint8_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint8_t value);
  void put(uint8_t byte);
  void flush_locked();
  void transmitter_empty();

  mutable std::mutex mutex_;
  const UniqueFd interrupt_;
  const UniqueFd copy_;
  std::vector<uint8_t> ring_;
  size_t next_ = 0;  // where the next byte goes
  bool wrapped_ = false;
  std::string line_;
  // Registers (of one byte each, as in a snapshot).
  struct Registers {
    uint8_t enable = 0;   // IER
    uint8_t control = 0;  // LCR
    uint8_t modem = 0;    // MCR
    uint8_t scratch = 0;  // SCR
    uint8_t divisor[2] = {1, 0};
    uint8_t fifo = 0;     // FCR bit 0
    uint8_t pending = 0;  // "transmitter empty" was raised and not yet read
  } registers_;
};

}  // namespace isopod::vmm
