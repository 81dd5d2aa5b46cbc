// The simplest device there is: it gives each chain back, with the readable bytes copied into the
// writable part as far as they go.
#pragma once

#include <vector>

#include "virtio/guest.h"
#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio::test {

class Echo final : public Device {
 public:
  uint32_t id() const override { return 42; }
  uint64_t features() const override { return kFeatureIndirect | kFeatureEventIdx | 1; }
  std::vector<uint16_t> queue_sizes() const override { return {64, 64}; }
  void read_config(uint64_t, uint8_t* data, size_t size) const override { memset(data, 7, size); }
  void write_config(uint64_t, const uint8_t*, size_t) override { config_writes++; }
  void activate(uint64_t features, std::vector<Queue*> given, Interrupt* to) override {
    accepted = features;
    queues = std::move(given);
    interrupt = to;
    activations++;
  }
  void notify(unsigned queue) override {
    notified.push_back(queue);
    if (queues[queue] == nullptr) return;
    while (queues[queue]->pop(chain)) {
      std::vector<uint8_t> bytes(std::min(chain.readable_bytes, size_t{1} << 20));
      gather(chain.readable, 0, bytes.data(), bytes.size());
      const size_t n = scatter(chain.writable, 0, bytes.data(), bytes.size());
      served++;
      queues[queue]->push(chain.head, static_cast<uint32_t>(n));
    }
    if (queues[queue]->wants_interrupt()) interrupt->ring();
    if (queues[queue]->broken()) interrupt->broken();
  }
  void reset() override {
    queues.clear();
    resets++;
  }
  std::vector<uint8_t> save() const override { return {1, 2, 3}; }
  bool load(const std::vector<uint8_t>& state) override {
    return state == std::vector<uint8_t>{1, 2, 3};
  }

  uint64_t accepted = 0;
  std::vector<Queue*> queues;
  Interrupt* interrupt = nullptr;
  Chain chain;
  std::vector<unsigned> notified;
  int activations = 0;
  int resets = 0;
  int served = 0;
  int config_writes = 0;
};

}  // namespace isopod::vmm::virtio::test
