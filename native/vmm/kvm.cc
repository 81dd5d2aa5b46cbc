#include "vmm/kvm.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

namespace isopod::vmm {

namespace {

constexpr char kDevice[] = "/dev/kvm";
constexpr int kApiVersion = 12;  // the only one there ever was
constexpr size_t kMaxCpuidEntries = 256;

// The kernel's headers declare arrays at a struct's end by a macro that in C++ puts an empty
// struct, one byte large, before them: offsets and sizes are wrong there, and the ioctl numbers,
// which carry the size, with them. So layouts and numbers once more.
struct CpuidList {
  uint32_t count;
  uint32_t padding;
  kvm_cpuid_entry2 entries[kMaxCpuidEntries];
};
struct OneMsr {
  uint32_t count;
  uint32_t padding;
  kvm_msr_entry entry;
};
// The kernel's sigset_t has 8 bytes, glibc's 128.
struct SignalMask {
  uint32_t size;
  uint8_t set[8];
};
static_assert(offsetof(CpuidList, entries) == 8 && offsetof(OneMsr, entry) == 8 &&
              offsetof(SignalMask, set) == 4);
constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
constexpr unsigned long kSetSignalMask = _IOC(_IOC_WRITE, KVMIO, 0x8b, 4);

Error kvm_error(const char* what) { return failure(errno, "kvm", what); }

template <typename T>
Status call(int fd, unsigned long request, T argument, const char* what) {
  for (;;) {
    if (::ioctl(fd, request, argument) >= 0) return Done{};
    if (errno != EINTR) return kvm_error(what);
  }
}

template <typename T>
Result<T> get(int fd, unsigned long request, const char* what) {
  T value{};
  if (Status done = call(fd, request, &value, what); !done) return done.error();
  return value;
}

// Without the reason and the cure an operator sees ENOENT.
Error open_error(int err) {
  const char* why = nullptr;
  if (err == ENOENT || err == ENODEV || err == ENXIO)
    why =
        "no KVM here: load kvm_intel or kvm_amd, enable virtualization in the firmware, or in a "
        "virtual machine nested virtualization on its host";
  if (err == EACCES || err == EPERM)
    why =
        "permission denied: run as root or in the group that owns it, and let the device cgroup "
        "allow 10:232";
  return Error{err, "open", kDevice, "", why != nullptr ? why : "", "FAILED_PRECONDITION"};
}

struct Needed {
  int capability;
  const char* name;
};
constexpr Needed kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

}  // namespace

RunPage::RunPage(RunPage&& other) noexcept
    : page_(std::exchange(other.page_, nullptr)), size_(other.size_) {}

RunPage& RunPage::operator=(RunPage&& other) noexcept {
  std::swap(page_, other.page_);
  std::swap(size_, other.size_);
  return *this;
}

RunPage::~RunPage() {
  if (page_ != nullptr) ::munmap(page_, size_);
}

Result<Kvm> Kvm::open() {
  UniqueFd fd(::open(kDevice, O_RDWR | O_CLOEXEC));
  if (!fd) return open_error(errno);
  return adopt(std::move(fd));
}

Result<Kvm> Kvm::adopt(UniqueFd fd) {
  Kvm kvm(std::move(fd));
  if (Status good = kvm.check(); !good) return good.error();
  return kvm;
}

Status Kvm::check() {
  const int version = ::ioctl(fd_.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) return kvm_error("KVM_GET_API_VERSION");
  if (version != kApiVersion)
    return Error{0,
                 "kvm",
                 kDevice,
                 "",
                 "its API version is not 12: boot a newer host kernel",
                 "FAILED_PRECONDITION"};
  for (const Needed& needed : kNeeded) {
    if (extension(needed.capability) > 0) continue;
    return Error{0,
                 "kvm",
                 kDevice,
                 "",
                 std::string(needed.name) + " is missing: boot a newer host kernel",
                 "FAILED_PRECONDITION"};
  }
  const int size = ::ioctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < 0) return kvm_error("KVM_GET_VCPU_MMAP_SIZE");
  run_size_ = static_cast<size_t>(size);
  return Done{};
}

int Kvm::extension(int capability) const {
  return ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
}

unsigned Kvm::max_vcpus() const {
  return static_cast<unsigned>(std::max(1, extension(KVM_CAP_MAX_VCPUS)));
}

Result<KvmVm> Kvm::create_vm() const {
  for (;;) {
    UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VM, 0));
    if (fd) return KvmVm(std::move(fd), run_size_);
    if (errno != EINTR) return kvm_error("KVM_CREATE_VM");
  }
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  const auto list = std::make_unique<CpuidList>();
  list->count = kMaxCpuidEntries;
  if (Status done = call(fd_.get(), kGetSupportedCpuid, list.get(), "KVM_GET_SUPPORTED_CPUID");
      !done)
    return done.error();
  return std::vector<kvm_cpuid_entry2>(list->entries, list->entries + list->count);
}

Status KvmVm::map(unsigned slot, const GuestMemory::Slot& memory) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = memory.address;
  region.memory_size = memory.size;
  region.userspace_addr = reinterpret_cast<uint64_t>(memory.host);
  return call(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

Status KvmVm::create_irqchip() {
  return call(fd_.get(), KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
}

Status KvmVm::set_tss(uint64_t address) {
  return call(fd_.get(), KVM_SET_TSS_ADDR, address, "KVM_SET_TSS_ADDR");
}

Status KvmVm::irqfd(int fd, uint32_t gsi) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(fd);
  request.gsi = gsi;
  return call(fd_.get(), KVM_IRQFD, &request, "KVM_IRQFD");
}

Status KvmVm::ioeventfd(int fd, uint64_t address, uint32_t size, std::optional<uint64_t> match) {
  kvm_ioeventfd request{};
  request.fd = fd;
  request.addr = address;
  request.len = size;
  if (match) {
    request.datamatch = *match;
    request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
  }
  return call(fd_.get(), KVM_IOEVENTFD, &request, "KVM_IOEVENTFD");
}

Result<KvmVcpu> KvmVm::create_vcpu(unsigned index) {
  UniqueFd fd(::ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  if (!fd) return kvm_error("KVM_CREATE_VCPU");
  void* page = ::mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return kvm_error("mapping kvm_run");
  return KvmVcpu(std::move(fd), RunPage(page, run_size_));
}

int KvmVcpu::run() { return ::ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0; }

Result<kvm_regs> KvmVcpu::regs() const {
  return get<kvm_regs>(fd_.get(), KVM_GET_REGS, "KVM_GET_REGS");
}

Result<kvm_sregs> KvmVcpu::sregs() const {
  return get<kvm_sregs>(fd_.get(), KVM_GET_SREGS, "KVM_GET_SREGS");
}

Status KvmVcpu::set_regs(const kvm_regs& regs) {
  return call(fd_.get(), KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

Status KvmVcpu::set_sregs(const kvm_sregs& sregs) {
  return call(fd_.get(), KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
}

Status KvmVcpu::set_fpu(const kvm_fpu& fpu) {
  return call(fd_.get(), KVM_SET_FPU, &fpu, "KVM_SET_FPU");
}

Status KvmVcpu::set_cpuid(const std::vector<kvm_cpuid_entry2>& entries) {
  const auto list = std::make_unique<CpuidList>();
  if (entries.size() > kMaxCpuidEntries) return failure(E2BIG, "kvm", "KVM_SET_CPUID2");
  list->count = static_cast<uint32_t>(entries.size());
  std::copy(entries.begin(), entries.end(), list->entries);
  return call(fd_.get(), kSetCpuid2, list.get(), "KVM_SET_CPUID2");
}

Status KvmVcpu::set_msrs(const std::vector<kvm_msr_entry>& msrs) {
  // One at a time: KVM stops at the first that it does not know (and returns how many it set).
  for (const kvm_msr_entry& msr : msrs) {
    OneMsr list{1, 0, msr};
    if (Status done = call(fd_.get(), kSetMsrs, &list, "KVM_SET_MSRS"); !done) return done;
  }
  return Done{};
}

Result<kvm_lapic_state> KvmVcpu::lapic() const {
  return get<kvm_lapic_state>(fd_.get(), KVM_GET_LAPIC, "KVM_GET_LAPIC");
}

Status KvmVcpu::set_lapic(const kvm_lapic_state& state) {
  return call(fd_.get(), KVM_SET_LAPIC, &state, "KVM_SET_LAPIC");
}

Status KvmVcpu::set_signal_mask(const std::vector<int>& deliverable) {
  uint64_t blocked = ~uint64_t{0};
  for (const int signal : deliverable) blocked &= ~(uint64_t{1} << (signal - 1));
  SignalMask mask{sizeof(blocked), {}};
  memcpy(mask.set, &blocked, sizeof(blocked));
  return call(fd_.get(), kSetSignalMask, &mask, "KVM_SET_SIGNAL_MASK");
}

}  // namespace isopod::vmm
