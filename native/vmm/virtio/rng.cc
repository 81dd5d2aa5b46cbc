#include "vmm/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>

namespace isopod::vmm::virtio {

namespace {

constexpr size_t kMaxRequest = 65536;

// Never blocks: the host's generator was ready long before.
size_t fill(const std::vector<iovec>& pieces) {
  size_t total = 0;
  for (const iovec& piece : pieces) {
    const size_t wanted = std::min(piece.iov_len, kMaxRequest - total);
    for (size_t at = 0; at < wanted;) {
      const ssize_t n =
          ::getrandom(static_cast<uint8_t*>(piece.iov_base) + at, wanted - at, GRND_NONBLOCK);
      if (n <= 0) return total;
      at += static_cast<size_t>(n);
      total += static_cast<size_t>(n);
    }
  }
  return total;
}

}  // namespace

Rng::Rng(Loop& loop, const Limits& limits) : gate_(loop, limits, [this] { notify(0); }) {}

void Rng::read_config(uint64_t, uint8_t* data, size_t size) const { memset(data, 0, size); }

void Rng::activate(uint64_t, std::vector<Queue*> queues, Interrupt* interrupt) {
  queue_ = queues[0];
  interrupt_ = interrupt;
}

void Rng::notify(unsigned) {
  if (queue_ == nullptr) return;
  bool bad = false;
  uint16_t left = queue_->size();
  for (; left > 0 && queue_->pop(chain_); left--) {
    bad = chain_.writable.empty() || !chain_.readable.empty();
    if (bad) break;
    if (!gate_.admit(std::min(chain_.writable_bytes, kMaxRequest))) {
      queue_->unpop(1);
      break;
    }
    queue_->push(chain_.head, static_cast<uint32_t>(fill(chain_.writable)));
  }
  if (queue_->wants_interrupt()) interrupt_->ring();
  if (bad || queue_->broken()) return interrupt_->broken();
  if (left == 0) interrupt_->again(0);
}

void Rng::reset() {
  gate_.close();
  queue_ = nullptr;
  interrupt_ = nullptr;
}

}  // namespace isopod::vmm::virtio
