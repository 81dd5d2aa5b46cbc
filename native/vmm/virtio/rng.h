// Entropy device (virtio 1.2, 5.4): fills the driver's buffers from the host's generator. A clone
// of a template gets its own random numbers here.
#pragma once

#include "vmm/virtio/device.h"
#include "vmm/virtio/limiter.h"
#include "vmm/virtio/queue.h"

namespace isopod::vmm::virtio {

class Rng final : public Device {
 public:
  // The loop is borrowed.
  explicit Rng(Loop& loop, const Limits& limits = {});

  uint32_t id() const override { return 4; }
  uint64_t features() const override { return kFeatureIndirect | kFeatureEventIdx; }
  std::vector<uint16_t> queue_sizes() const override { return {64}; }
  void read_config(uint64_t offset, uint8_t* data, size_t size) const override;
  void write_config(uint64_t, const uint8_t*, size_t) override {}
  void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) override;
  void notify(unsigned queue) override;
  void reset() override;

 private:
  Gate gate_;
  Queue* queue_ = nullptr;
  Interrupt* interrupt_ = nullptr;
  Chain chain_;
};

}  // namespace isopod::vmm::virtio
