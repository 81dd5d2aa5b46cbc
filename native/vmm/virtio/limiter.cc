#include "vmm/virtio/limiter.h"

#include <algorithm>
#include <utility>

namespace isopod::vmm::virtio {

namespace {

// A product of tokens and nanoseconds does not fit 64 bits.
__extension__ using Wide = unsigned __int128;
constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kMaxTokens = uint64_t{1} << 62;

}  // namespace

TokenBucket::TokenBucket(const Bucket& bucket, uint64_t now)
    : bucket_(bucket), burst_(bucket.burst), refilled_(now) {
  bucket_.size = std::min(bucket_.size, kMaxTokens);
  tokens_ = static_cast<int64_t>(bucket_.size);
}

void TokenBucket::refill(uint64_t now) {
  const Wide period = Wide{bucket_.refill_ms} * kMillisecond;
  const Wide earned = Wide{now - refilled_} * bucket_.size / period;
  const auto room = static_cast<uint64_t>(static_cast<int64_t>(bucket_.size) - tokens_);
  if (earned >= room) {
    tokens_ = static_cast<int64_t>(bucket_.size);
    refilled_ = now;
    return;
  }
  tokens_ += static_cast<int64_t>(earned);
  // What is left of a token is not lost.
  refilled_ += static_cast<uint64_t>(earned * period / bucket_.size);
}

uint64_t TokenBucket::wait(uint64_t now) {
  if (unlimited() || burst_ > 0) return 0;
  refill(now);
  if (tokens_ > 0) return 0;
  const Wide missing = static_cast<uint64_t>(1 - tokens_);
  const Wide due = missing * bucket_.refill_ms * kMillisecond / bucket_.size + 1;
  return std::max<uint64_t>(1, static_cast<uint64_t>(due) - (now - refilled_));
}

void TokenBucket::take(uint64_t tokens) {
  if (unlimited()) return;
  const uint64_t from_burst = std::min(burst_, tokens);
  burst_ -= from_burst;
  // A chain has less than 4 GiB: debts stay far from overflowing.
  tokens_ -= static_cast<int64_t>(std::min(tokens - from_burst, uint64_t{UINT32_MAX}));
}

Gate::Gate(Loop& loop, const Limits& limits, std::function<void()> resume)
    : loop_(loop),
      bytes_(limits.bytes, loop.now()),
      operations_(limits.operations, loop.now()),
      resume_(std::move(resume)) {}

bool Gate::ready() {
  if (timer_ != 0) return false;
  const uint64_t now = loop_.now();
  const uint64_t wait = std::max(bytes_.wait(now), operations_.wait(now));
  if (wait == 0) return true;
  timer_ = loop_.after(wait, [this] {
    timer_ = 0;
    resume_();
  });
  return false;
}

void Gate::charge(uint64_t bytes) {
  bytes_.take(bytes);
  operations_.take(1);
}

void Gate::close() {
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
}

}  // namespace isopod::vmm::virtio
