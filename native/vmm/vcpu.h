// A vCPU and its thread: KVM_RUN until the guest wants something, serve that by the buses, again.
// It reaches no lock of the machine while the guest runs.
//
// To get a vCPU out of the guest (a kick) takes two things: `immediate_exit` in the shared page,
// which stops a KVM_RUN that is about to begin, and a signal, which ends one that runs. The signal
// stays blocked but inside KVM_RUN (KVM_SET_SIGNAL_MASK), so that no handler is needed and nothing
// else on the thread sees EINTR.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

#include "vmm/bus.h"
#include "vmm/kvm.h"
#include "vmm/thread.h"

namespace isopod::vmm {

// Why a guest is over.
struct End {
  enum Kind {
    kStopped,   // by the host
    kPowerOff,  // ACPI sleep state 5
    kReset,     // keyboard controller, reset register, or what panic=-1 comes to
    kShutdown,  // triple fault
    kHalted,    // HLT with no interrupt controller to end it
    kError,     // KVM or the host could not go on; `detail` has exit and registers
  };
  Kind kind = kStopped;
  std::string detail;
};

class Vcpu {
 public:
  // The last thing that the vCPU's thread does: once after each successful start().
  using OnEnd = std::function<void(End)>;

  // The buses are borrowed and must outlive the thread.
  Vcpu(KvmVcpu kvm, unsigned index, const Bus* pio, const Bus* mmio, OnEnd on_end);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;
  ~Vcpu();

  Status start();
  // Returns with the vCPU out of the guest and its last access completed, so that registers can be
  // read and written.
  void pause();
  void resume();
  // Asks the thread to end: from any thread, also its own.
  void stop();
  void join();

  // Before start(), while paused, or after join().
  KvmVcpu& kvm() { return kvm_; }
  unsigned index() const { return index_; }

 private:
  enum class Wish { kRun, kPause, kStop };

  void loop();
  void kick();
  // False: the guest is over, why_ says why.
  bool enter();
  bool serve();
  void port_io();
  void memory_io();
  // Makes KVM finish an access whose data was just handed over. False: the guest is over.
  bool complete();
  // Waits while paused; false: stop.
  bool obey();
  // Returns false.
  bool end(End::Kind kind, std::string detail = "");
  std::string describe(const std::string& what) const;

  KvmVcpu kvm_;
  const unsigned index_;
  const Bus* const pio_;
  const Bus* const mmio_;
  const OnEnd on_end_;
  Thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Wish wish_ = Wish::kRun;  // guarded by mutex_, as parked_ and ended_
  bool parked_ = false;     // waits for resume() or stop()
  bool ended_ = false;      // has left the loop
  End why_;                 // the thread's own
};

}  // namespace isopod::vmm
