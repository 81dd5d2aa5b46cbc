// KVM's ioctls: /dev/kvm makes machines, a machine makes vCPUs, each a file of its own
// (Documentation/virt/kvm/api.rst). Nothing else in the tree calls them.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/memory.h"

namespace isopod::vmm {

// What a vCPU's thread shares with the kernel: the exit and its data.
class RunPage {
 public:
  RunPage() = default;
  RunPage(void* page, size_t size) : page_(page), size_(size) {}
  RunPage(RunPage&& other) noexcept;
  RunPage& operator=(RunPage&& other) noexcept;
  ~RunPage();
  kvm_run* get() const { return static_cast<kvm_run*>(page_); }

 private:
  void* page_ = nullptr;
  size_t size_ = 0;
};

class KvmVcpu {
 public:
  KvmVcpu() = default;
  KvmVcpu(UniqueFd fd, RunPage page) : fd_(std::move(fd)), page_(std::move(page)) {}

  // Into the guest until an exit: 0, or an errno; EINTR after a kick.
  int run();
  kvm_run* page() const { return page_.get(); }

  Result<kvm_regs> regs() const;
  Result<kvm_sregs> sregs() const;
  Status set_regs(const kvm_regs& regs);
  Status set_sregs(const kvm_sregs& sregs);
  Status set_fpu(const kvm_fpu& fpu);
  Status set_cpuid(const std::vector<kvm_cpuid_entry2>& entries);
  // Entries that this KVM does not know are left out.
  Status set_msrs(const std::vector<kvm_msr_entry>& msrs);
  Result<kvm_lapic_state> lapic() const;
  Status set_lapic(const kvm_lapic_state& state);
  // Signals blocked while in the guest; blocked ones stay so outside.
  Status set_signal_mask(const std::vector<int>& deliverable);

 private:
  UniqueFd fd_;
  RunPage page_;
};

class KvmVm {
 public:
  KvmVm() = default;
  KvmVm(UniqueFd fd, size_t run_size) : fd_(std::move(fd)), run_size_(run_size) {}

  Status map(unsigned slot, const GuestMemory::Slot& memory);
  // PIC, IOAPIC and local APICs in the kernel. Before the first vCPU.
  Status create_irqchip();
  // Three pages that Intel's real mode emulation needs; no guest may see them used.
  Status set_tss(uint64_t address);
  // A write to `fd` pulses interrupt line `gsi`.
  Status irqfd(int fd, uint32_t gsi);
  // A guest's write of `size` bytes (0: any) at `address` counts up `fd` instead of an exit; with
  // `match` only the write of that value.
  Status ioeventfd(int fd, uint64_t address, uint32_t size, std::optional<uint64_t> match);
  Result<KvmVcpu> create_vcpu(unsigned index);

 private:
  UniqueFd fd_;
  size_t run_size_ = 0;
};

class Kvm {
 public:
  // /dev/kvm with all that a machine needs; the error says what is missing and the cure.
  static Result<Kvm> open();
  // The same from a descriptor that somebody else opened.
  static Result<Kvm> adopt(UniqueFd fd);

  Result<KvmVm> create_vm() const;
  Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  int extension(int capability) const;
  unsigned max_vcpus() const;

 private:
  explicit Kvm(UniqueFd fd) : fd_(std::move(fd)) {}
  Status check();

  UniqueFd fd_;
  size_t run_size_ = 0;
};

}  // namespace isopod::vmm
