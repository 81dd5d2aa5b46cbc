#include "vmm/vcpu.h"

#include <signal.h>
#include <time.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

namespace isopod::vmm {

namespace {

int kick_signal() { return SIGRTMIN; }

void set_immediate_exit(kvm_run* page, uint8_t value) {
  __atomic_store_n(&page->immediate_exit, value, __ATOMIC_SEQ_CST);
}

// The signal that ended KVM_RUN was seen there but not taken: it is blocked here.
void take_kick() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kick_signal());
  const timespec none{};
  while (::sigtimedwait(&set, nullptr, &none) > 0) {
  }
}

}  // namespace

Vcpu::Vcpu(KvmVcpu kvm, unsigned index, const Bus* pio, const Bus* mmio, OnEnd on_end)
    : kvm_(std::move(kvm)), index_(index), pio_(pio), mmio_(mmio), on_end_(std::move(on_end)) {}

Vcpu::~Vcpu() {
  stop();
  join();
}

Status Vcpu::start() {
  if (Status set = kvm_.set_signal_mask({kick_signal()}); !set) return set;
  char name[16];
  snprintf(name, sizeof(name), "vcpu %u", index_);
  // Held so that a kick from another vCPU finds the thread whole or not at all.
  std::lock_guard lock(mutex_);
  return thread_.start(name, [this] { loop(); });
}

void Vcpu::kick() {
  set_immediate_exit(kvm_.page(), 1);
  if (thread_.running()) pthread_kill(thread_.handle(), kick_signal());
}

void Vcpu::pause() {
  std::unique_lock lock(mutex_);
  if (wish_ == Wish::kStop || !thread_.running()) return;
  wish_ = Wish::kPause;
  kick();
  changed_.wait(lock, [this] { return parked_ || ended_; });
}

void Vcpu::resume() {
  std::lock_guard lock(mutex_);
  if (wish_ == Wish::kPause) wish_ = Wish::kRun;
  changed_.notify_all();
}

void Vcpu::stop() {
  std::lock_guard lock(mutex_);
  wish_ = Wish::kStop;
  // Not once the thread may have ended: its handle would name nobody.
  if (!ended_) kick();
  changed_.notify_all();
}

void Vcpu::join() { thread_.join(); }

void Vcpu::loop() {
  do {
    // Before the look at wish_: a kick that comes after it is not lost.
    set_immediate_exit(kvm_.page(), 0);
  } while (obey() && enter());
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  on_end_(std::move(why_));
}

bool Vcpu::obey() {
  std::unique_lock lock(mutex_);
  if (wish_ == Wish::kPause) {
    lock.unlock();
    const bool alive = complete();
    lock.lock();
    if (!alive) return false;
    parked_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return wish_ != Wish::kPause; });
    parked_ = false;
    set_immediate_exit(kvm_.page(), 0);
  }
  return wish_ != Wish::kStop;
}

bool Vcpu::complete() {
  set_immediate_exit(kvm_.page(), 1);
  // An access that was split comes back with its next part; else this is EINTR at once.
  while (kvm_.run() == 0)
    if (!serve()) return false;
  take_kick();
  return true;
}

bool Vcpu::enter() {
  const int err = kvm_.run();
  if (err == EINTR || err == EAGAIN) {
    take_kick();
    return true;
  }
  if (err != 0) {
    return end(End::kError, describe(std::string("KVM_RUN: ") + strerrordesc_np(err)));
  }
  return serve();
}

bool Vcpu::serve() {
  const kvm_run* run = kvm_.page();
  switch (run->exit_reason) {
    case KVM_EXIT_IO:
      port_io();
      return true;
    case KVM_EXIT_MMIO:
      memory_io();
      return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return true;
    case KVM_EXIT_HLT:
      return end(End::kHalted);
    case KVM_EXIT_SHUTDOWN:
      return end(End::kShutdown, describe("triple fault"));
    case KVM_EXIT_SYSTEM_EVENT:
      end(run->system_event.type == KVM_SYSTEM_EVENT_RESET ? End::kReset : End::kPowerOff);
      return false;
    case KVM_EXIT_FAIL_ENTRY: {
      char text[64];
      snprintf(text, sizeof(text), "the processor refused to enter the guest, reason %#" PRIx64,
               uint64_t{run->fail_entry.hardware_entry_failure_reason});
      return end(End::kError, describe(text));
    }
    case KVM_EXIT_INTERNAL_ERROR: {
      std::string text = "KVM internal error " + std::to_string(run->internal.suberror);
      if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        text += " (an instruction that this KVM cannot emulate)";
      return end(End::kError, describe(text));
    }
    default:
      return end(End::kError, describe("unknown exit " + std::to_string(run->exit_reason)));
  }
}

void Vcpu::port_io() {
  kvm_run* run = kvm_.page();
  uint8_t* data = reinterpret_cast<uint8_t*>(run) + run->io.data_offset;
  // `rep outs` comes as one exit with several items.
  for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
    if (run->io.direction == KVM_EXIT_IO_OUT)
      pio_->write(run->io.port, data, run->io.size);
    else
      pio_->read(run->io.port, data, run->io.size);
  }
}

void Vcpu::memory_io() {
  kvm_run* run = kvm_.page();
  // The kernel splits what crosses 8 bytes.
  const size_t size = run->mmio.len <= sizeof(run->mmio.data) ? run->mmio.len : 0;
  if (run->mmio.is_write != 0)
    mmio_->write(run->mmio.phys_addr, run->mmio.data, size);
  else
    mmio_->read(run->mmio.phys_addr, run->mmio.data, size);
}

bool Vcpu::end(End::Kind kind, std::string detail) {
  why_ = End{kind, std::move(detail)};
  return false;
}

std::string Vcpu::describe(const std::string& what) const {
  Result<kvm_regs> regs = kvm_.regs();
  Result<kvm_sregs> sregs = kvm_.sregs();
  if (!regs || !sregs) return what;
  char text[512];
  snprintf(text, sizeof(text),
           "%s; vcpu %u rip %#llx rsp %#llx rflags %#llx rax %#llx rbx %#llx rcx %#llx rdx %#llx "
           "rsi %#llx rdi %#llx cs %#x cr0 %#llx cr2 %#llx cr3 %#llx cr4 %#llx efer %#llx",
           what.c_str(), index_, regs->rip, regs->rsp, regs->rflags, regs->rax, regs->rbx,
           regs->rcx, regs->rdx, regs->rsi, regs->rdi, sregs->cs.selector, sregs->cr0, sregs->cr2,
           sregs->cr3, sregs->cr4, sregs->efer);
  return text;
}

}  // namespace isopod::vmm
