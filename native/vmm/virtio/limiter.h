// Rate limits by token buckets. A bucket holds `size` tokens at most, and is refilled at size per
// refill_ms; what is admitted while any token is left may be larger than that, and is paid off
// before the next: a request of any size gets through, and the average holds.
#pragma once

#include <cstdint>
#include <functional>

#include "vmm/loop.h"

namespace isopod::vmm::virtio {

struct Bucket {
  uint64_t size = 0;       // tokens; 0: no limit
  uint64_t burst = 0;      // tokens on top, once
  uint64_t refill_ms = 0;  // to fill it from empty; 0: no limit
};

struct Limits {
  Bucket bytes;
  Bucket operations;
};

class TokenBucket {
 public:
  TokenBucket(const Bucket& bucket, uint64_t now);
  // Nanoseconds until something is admitted; 0: now.
  uint64_t wait(uint64_t now);
  void take(uint64_t tokens);

 private:
  void refill(uint64_t now);
  bool unlimited() const { return bucket_.size == 0 || bucket_.refill_ms == 0; }

  Bucket bucket_;
  int64_t tokens_;  // negative: debt
  uint64_t burst_;
  uint64_t refilled_;  // up to this moment
};

// Lets requests of one queue pass, or calls `resume` when they may. The loop's thread.
class Gate {
 public:
  Gate(Loop& loop, const Limits& limits, std::function<void()> resume);
  ~Gate() { close(); }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Whether something may pass. False: not now; `resume` will be called.
  [[nodiscard]] bool ready();
  // One operation of so many bytes has passed.
  void charge(uint64_t bytes);
  [[nodiscard]] bool admit(uint64_t bytes) {
    if (!ready()) return false;
    charge(bytes);
    return true;
  }
  // `resume` is not called any more for what was turned away.
  void close();

 private:
  Loop& loop_;
  TokenBucket bytes_;
  TokenBucket operations_;
  std::function<void()> resume_;
  Loop::Timer timer_ = 0;
};

}  // namespace isopod::vmm::virtio
