// virtio over MMIO, version 2 (virtio 1.2, 4.2): a window of registers per device, through which
// the driver negotiates features and says where its queues are.
//
// Status walks one way: 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK, one bit at a time,
// and back to 0 only; features are writable at DRIVER, queues at FEATURES_OK. At DRIVER_OK all
// rings are validated, their host addresses kept, and every register of a queue is frozen until the
// reset: a driver that moves or grows a ring that is in use moves nothing (CVE-2026-5747).
//
// Threads. Registers are served on vCPU threads under a lock; the device runs on the loop's thread
// and never takes that lock. DRIVER_OK is handed over by Loop::post(). A reset is handed over as
// well, and the vCPU waits for it, because when its write returns the driver frees the rings (Linux
// does not read Status back). So the loop's thread must never wait for a vCPU, and the loop
// outlives the vCPUs.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/bus.h"
#include "vmm/loop.h"
#include "vmm/memory.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/queue.h"

namespace isopod::vmm::virtio {

class Transport final : public BusDevice, private Interrupt {
 public:
  static constexpr uint64_t kWindow = 0x1000;      // bytes of a device's range on the bus
  static constexpr uint64_t kNotifyOffset = 0x50;  // where the ioeventfds go: 4 bytes, datamatch

  // All three are borrowed. Descriptors are made here: the only way to fail.
  static Result<std::unique_ptr<Transport>> create(const GuestMemory& memory, Loop& loop,
                                                   Device& device);
  // On the loop's thread, or when it and the vCPUs have ended.
  ~Transport() override;

  // For KVM_IRQFD: one pulse per interrupt, InterruptStatus is set before.
  int irq() const { return irq_.get(); }
  // For KVM_IOEVENTFD: one per queue, datamatch = its number. Without it a write to QueueNotify
  // has the same effect.
  std::vector<int> notifiers() const;

  void read(uint64_t offset, uint8_t* data, size_t size) override;
  void write(uint64_t offset, const uint8_t* data, size_t size) override;

  // Both on the loop's thread while no vCPU runs. save() lets the device finish what is in flight.
  // load() takes a transport that was never used, and what save() gave, distrusted like a driver;
  // false: it is damaged, of another device, or of more features than are offered. A device that
  // was running runs on, and the guest is interrupted once: what was pending is looked at again.
  std::vector<uint8_t> save();
  [[nodiscard]] bool load(const std::vector<uint8_t>& state);

 private:
  Transport(const GuestMemory& memory, Loop& loop, Device& device);

  // Interrupt, on the loop's thread.
  void ring() override;
  void config() override;
  void broken() override;
  void again(unsigned queue) override;
  void interrupt(uint32_t why);

  uint32_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint32_t value);
  void write_queue(uint64_t offset, uint32_t value);
  void write_status(uint32_t value);
  bool features_acceptable() const;
  bool build_queues(const std::vector<QueuePosition>& positions);
  void notify(uint32_t queue);
  void reset();
  void start();
  void stop();
  std::function<void()> while_alive(std::function<void()> task);

  const GuestMemory& memory_;
  Loop& loop_;
  Device& device_;
  const std::vector<uint16_t> maxima_;
  UniqueFd irq_;
  std::vector<UniqueFd> notifiers_;
  std::atomic<uint32_t> interrupt_status_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<uint32_t> status_{0};

  // Under the lock.
  std::mutex mutex_;
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint64_t driver_features_ = 0;
  bool unknown_features_ = false;  // beyond the 64 bits that exist
  uint32_t queue_select_ = 0;
  std::vector<QueueSetup> setups_;

  // Filled under the lock at DRIVER_OK, the loop's from then until its stop() is waited for.
  std::vector<std::optional<Queue>> queues_;
  // The loop's thread only.
  bool running_ = false;
  const std::shared_ptr<void> alive_ = std::make_shared<char>();  // tasks may outlive us
};

}  // namespace isopod::vmm::virtio
