#include "vmm/cpuid.h"

#include <cpuid.h>

#include <algorithm>
#include <utility>

namespace isopod::vmm {

namespace {

using Entry = kvm_cpuid_entry2;

constexpr uint32_t kKvmSignature = 0x40000000, kKvmFeatures = 0x40000001;
constexpr uint32_t kClockFeatures = (1u << 0) | (1u << 3);  // kvmclock, old and new MSRs

uint32_t set_bits(uint32_t value, unsigned low, unsigned count, uint32_t field) {
  const uint32_t mask = ((1u << count) - 1) << low;
  return (value & ~mask) | ((field << low) & mask);
}

// Bits that number `count` things.
unsigned width(unsigned count) {
  unsigned bits = 0;
  while ((1u << bits) < count) bits++;
  return bits;
}

void identify(Entry& leaf1, Topology topology, bool deadline) {
  constexpr uint32_t kHypervisor = 1u << 31, kDeadline = 1u << 24, kMwait = 1u << 3, kVmx = 1u << 5,
                     kMultiThreading = 1u << 28;
  leaf1.ebx = set_bits(leaf1.ebx, 24, 8, topology.index);
  leaf1.ebx = set_bits(leaf1.ebx, 16, 8, 1u << width(topology.count));
  leaf1.ecx = (leaf1.ecx | kHypervisor) & ~(kMwait | kVmx);
  if (deadline) leaf1.ecx |= kDeadline;
  leaf1.edx = topology.count > 1 ? leaf1.edx | kMultiThreading : leaf1.edx & ~kMultiThreading;
}

void hide_extensions(Entry& leaf7) {
  constexpr uint32_t kHle = 1u << 4, kRtm = 1u << 11;                                // EBX
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;  // EDX
  if (leaf7.index != 0) return;
  leaf7.ebx &= ~(kHle | kRtm);
  leaf7.edx &= ~(kAmxBf16 | kAmxTile | kAmxInt8);
}

// Deterministic cache parameters, Intel's leaf 4 and AMD's 0x8000001d: level 3 is shared by all.
void share_caches(Entry& cache, unsigned count, bool intel) {
  const uint32_t level = (cache.eax >> 5) & 7;
  if ((cache.eax & 0x1f) == 0) return;
  cache.eax = set_bits(cache.eax, 14, 12, level >= 3 ? (1u << width(count)) - 1 : 0);
  if (intel) cache.eax = set_bits(cache.eax, 26, 6, std::min((1u << width(count)) - 1, 63u));
}

// Extended topology, leaves 0xb and 0x1f: a thread per core, `count` cores.
void add_topology(std::vector<Entry>& out, uint32_t leaf, Topology topology) {
  constexpr uint32_t kThread = 1 << 8, kCore = 2 << 8;
  const auto add = [&](uint32_t index, uint32_t eax, uint32_t ebx, uint32_t kind) {
    Entry entry{};
    entry.function = leaf;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = eax;
    entry.ebx = ebx;
    entry.ecx = index | kind;
    entry.edx = topology.index;
    out.push_back(entry);
  };
  add(0, 0, 1, kThread);
  add(1, width(topology.count), topology.count, kCore);
  add(2, 0, 0, 0);
}

void adjust(Entry& entry, Topology topology, bool deadline) {
  constexpr uint32_t kSvm = 1u << 2;
  switch (entry.function) {
    case 1:
      return identify(entry, topology, deadline);
    case 4:
      return share_caches(entry, topology.count, true);
    case 7:
      return hide_extensions(entry);
    case 0xd:  // AMX's state components
      if (entry.index == 0) entry.eax &= ~((1u << 17) | (1u << 18));
      return;
    case 0x80000001:
      entry.ecx &= ~kSvm;
      return;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:  // the brand, as the host has it
      __get_cpuid(entry.function, &entry.eax, &entry.ebx, &entry.ecx, &entry.edx);
      return;
    case 0x80000008:
      entry.ecx = set_bits(entry.ecx, 0, 8, topology.count - 1);
      entry.ecx = set_bits(entry.ecx, 12, 4, width(topology.count));
      return;
    case 0x8000001d:
      return share_caches(entry, topology.count, false);
    case 0x8000001e:
      entry.eax = topology.index;
      entry.ebx = set_bits(entry.ebx, 0, 16, topology.index);
      entry.ecx = 0;
      return;
    case 5:           // MWAIT
    case 0xa:         // performance counters
    case 0x1d:        // AMX tiles
    case 0x1e:        // and what they multiply
    case 0x8000000a:  // SVM
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      return;
    default:
      return;
  }
}

}  // namespace

Result<std::vector<Entry>> guest_cpuid(std::vector<Entry> supported, Topology topology,
                                       bool deadline) {
  std::vector<Entry> out;
  bool clock = false, signature = false;
  std::vector<uint32_t> topology_leaves;
  for (Entry& entry : supported) {
    signature |= entry.function == kKvmSignature;
    clock |= entry.function == kKvmFeatures && (entry.eax & kClockFeatures) == kClockFeatures;
    if (entry.function == 0xb || entry.function == 0x1f) {
      topology_leaves.push_back(entry.function);
      continue;
    }
    if (entry.function == 0xd && (entry.index == 17 || entry.index == 18)) continue;
    adjust(entry, topology, deadline);
    out.push_back(entry);
  }
  if (!clock || !signature)
    return Error{0,
                 "kvm",
                 "kvmclock",
                 "",
                 "this KVM offers none, and a guest could not keep time",
                 "FAILED_PRECONDITION"};
  std::sort(topology_leaves.begin(), topology_leaves.end());
  topology_leaves.erase(std::unique(topology_leaves.begin(), topology_leaves.end()),
                        topology_leaves.end());
  for (const uint32_t leaf : topology_leaves) add_topology(out, leaf, topology);
  return out;
}

}  // namespace isopod::vmm
