// What CPUID tells the guest: what KVM supports, less what is not for guests, plus who they are.
#pragma once

#include <linux/kvm.h>

#include <vector>

#include "base/result.h"

namespace isopod::vmm {

struct Topology {
  unsigned index;  // of the vCPU, which is its APIC id as well
  unsigned count;  // of vCPUs: one package, a thread per core
};

// `deadline`: KVM emulates the TSC deadline timer (KVM_CAP_TSC_DEADLINE_TIMER), which it may not
// list. An error if it offers no kvmclock: a machine without PIT could not tell the time.
Result<std::vector<kvm_cpuid_entry2>> guest_cpuid(std::vector<kvm_cpuid_entry2> supported,
                                                  Topology topology, bool deadline);

}  // namespace isopod::vmm
