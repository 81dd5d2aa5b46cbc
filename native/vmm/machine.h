// One virtual machine from its making to its end.
//
//   create() -> add() devices -> start() -> ... on_end -> destruction
//
// Threads: one per vCPU and the loop's. The loop never waits for a vCPU (a vCPU may be waiting for
// it), so the end goes in steps: whoever learns of it first says why, all vCPUs are told to stop,
// the last of them to leave tells the loop, and the loop reports. From there on nothing of the
// guest runs. Destruction does the same from any state, and waits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/boot.h"
#include "vmm/bus.h"
#include "vmm/event_loop.h"
#include "vmm/kvm.h"
#include "vmm/memory.h"
#include "vmm/power.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"
#include "vmm/virtio/device.h"
#include "vmm/virtio/mmio.h"

namespace isopod::vmm {

struct MachineConfig {
  uint64_t memory = 0;  // bytes: pages, at least kMinMemory
  unsigned vcpus = 1;   // at most kMaxVcpus, and what KVM takes
  UniqueFd kernel;      // a boot image
  UniqueFd initrd;      // none: the kernel panics where it would run /init
  std::string command_line;
  size_t serial_keep = size_t{64} << 10;  // bytes of the serial port's output that are kept
  UniqueFd console;                       // gets that output as well; non-blocking
  UniqueFd kvm;                           // none: /dev/kvm is opened
};

class Machine {
 public:
  static Result<std::unique_ptr<Machine>> create(MachineConfig config);
  // Ends the guest if it runs and waits for it. Not on the loop's thread.
  ~Machine();

  // Before start(). The device's window and line are the next free ones.
  Status add(std::unique_ptr<virtio::Device> device);
  // `on_end` is called once, on the loop's thread, if start() succeeds.
  Status start(std::function<void(End)> on_end);
  // Ends the guest: from any thread, does not wait. The first end counts.
  void stop() { end(End{End::kStopped, ""}); }

  // All vCPUs out of the guest, their last access completed; and in again. Not on the loop's
  // thread.
  void pause();
  void resume();

  // The last output of the serial port.
  std::string serial() const { return serial_.text(); }
  // Where devices live: what touches one is posted here.
  EventLoop& loop() { return *loop_; }
  const GuestMemory& memory() const { return memory_; }

 private:
  struct Attached {
    std::unique_ptr<virtio::Device> device;
    std::unique_ptr<virtio::Transport> transport;
    uint64_t base;
    uint32_t gsi;
  };

  Machine(GuestMemory memory, MachineConfig& config, UniqueFd serial_interrupt);
  Status assemble(const Kvm& kvm);
  Status add_legacy();
  Status wire(const Attached& attached);
  Status boot();
  void end(End why);
  void vcpu_left(End why);
  void finish();

  GuestMemory memory_;
  BootImage image_;
  UniqueFd initrd_;
  const std::string command_line_;
  const unsigned vcpu_count_;
  std::unique_ptr<EventLoop> loop_;
  Serial serial_;
  PowerRegisters power_;
  KeyboardController keyboard_;
  std::vector<Attached> devices_;
  Bus pio_;
  Bus mmio_;
  KvmVm vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;

  std::function<void(End)> on_end_;
  std::atomic<unsigned> running_{0};  // vCPU threads
  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  std::optional<End> why_;  // guarded by mutex_, as finished_
  bool finished_ = false;
};

}  // namespace isopod::vmm
