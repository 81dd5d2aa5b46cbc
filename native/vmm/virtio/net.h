// Network device (virtio 1.2, 5.1) over a tap: one pair of queues. Frames go between tap and guest
// memory without a copy of ours, with the virtio header that the tap speaks as well.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/limiter.h"
#include "vmm/virtio/net_header.h"
#include "vmm/virtio/queue.h"

namespace isopod::vmm::virtio {

struct NetOptions {
  // A tap made with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR. A socket that keeps the bounds of messages
  // serves as well: its other end then does what is negotiated.
  UniqueFd tap;
  std::array<uint8_t, 6> mac;
  uint16_t mtu = 1500;
  Limits receive;   // towards the guest
  Limits transmit;  // from it
};

class Net final : public Device {
 public:
  // The loop is borrowed.
  static Result<std::unique_ptr<Net>> create(Loop& loop, NetOptions options);
  ~Net() override { reset(); }

  struct Counters {
    uint64_t received = 0;
    uint64_t transmitted = 0;
    uint64_t received_dropped = 0;     // did not fit the guest's buffers
    uint64_t transmitted_dropped = 0;  // bad header, or refused by the tap
  };
  const Counters& counters() const { return counters_; }  // the loop's thread

  uint32_t id() const override { return 1; }
  uint64_t features() const override;
  std::vector<uint16_t> queue_sizes() const override { return {kQueueSize, kQueueSize}; }
  void read_config(uint64_t offset, uint8_t* data, size_t size) const override;
  void write_config(uint64_t, const uint8_t*, size_t) override {}
  void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) override;
  void notify(unsigned queue) override;
  void reset() override;
  void drain() override;

 private:
  enum { kRx = 0, kTx = 1 };
  static constexpr uint16_t kQueueSize = 256;

  Net(Loop& loop, NetOptions options);
  bool offload() const;
  bool negotiated(unsigned feature) const { return (accepted_ >> feature & 1) != 0; }

  void receive();
  enum class Step { kGoOn, kWait, kBroken };
  Step receive_one();
  Step read_frame(size_t room);
  bool collect();
  void deliver(size_t bytes, bool copy);
  void listen(bool on);
  void link_down();

  void transmit();
  bool send(const NetHeader& header);

  Loop& loop_;
  UniqueFd tap_;
  NetConfig config_{};
  std::atomic<uint16_t> status_{1};  // vCPUs read it
  bool is_tap_ = false;
  uint64_t accepted_ = 0;
  size_t largest_ = 0;  // frame and header that may come
  Gate receive_gate_;
  Gate transmit_gate_;
  Counters counters_;

  Queue* rx_ = nullptr;
  Queue* tx_ = nullptr;
  Interrupt* interrupt_ = nullptr;
  bool listening_ = false;
  Chain chain_;                // being transmitted
  std::vector<iovec> pieces_;  // of one system call
  // Buffers of the guest that were popped and not filled yet, in order: a circle.
  std::vector<Chain> held_;
  size_t first_ = 0;
  size_t count_ = 0;
  size_t room_ = 0;  // their bytes
  // A frame that waits for buffers; also what takes the end of a frame that fits no buffer.
  std::vector<uint8_t> frame_;
  size_t frame_bytes_ = 0;
};

}  // namespace isopod::vmm::virtio
