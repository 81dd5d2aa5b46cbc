#include "vmm/machine.h"

#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/acpi.h"
#include "vmm/cpuid.h"
#include "vmm/layout.h"

namespace isopod::vmm {

namespace {

Error refuse(const char* what, std::string why) {
  return Error{0, "machine", what, "", std::move(why), "INVALID_ARGUMENT"};
}

Result<Initrd> initrd_of(const UniqueFd& file) {
  if (!file) return Initrd{};
  struct stat status {};
  if (::fstat(file.get(), &status) < 0) return failure(errno, "boot", "initramfs");
  if (!S_ISREG(status.st_mode) || status.st_size == 0)
    return refuse("initramfs", "empty, or no regular file");
  return Initrd{file.get(), static_cast<uint64_t>(status.st_size)};
}

}  // namespace

Machine::Machine(GuestMemory memory, MachineConfig& config, UniqueFd serial_interrupt)
    : memory_(std::move(memory)),
      initrd_(std::move(config.initrd)),
      command_line_(std::move(config.command_line)),
      vcpu_count_(config.vcpus),
      serial_(config.serial_keep, std::move(serial_interrupt), std::move(config.console)),
      power_([this](End::Kind kind) {
        end(End{kind, ""});
      }),
      keyboard_([this](End::Kind kind) {
        end(End{kind, ""});
      }) {}

Result<std::unique_ptr<Machine>> Machine::create(MachineConfig config) {
  Result<Kvm> kvm = config.kvm ? Kvm::adopt(std::move(config.kvm)) : Kvm::open();
  if (!kvm) return kvm.error();
  const unsigned most = std::min(kMaxVcpus, kvm->max_vcpus());
  if (config.vcpus == 0 || config.vcpus > most)
    return refuse("vcpus", std::to_string(config.vcpus) + ": 1 to " + std::to_string(most));
  Result<BootImage> image = BootImage::open(std::move(config.kernel));
  if (!image) return image.error();
  Result<GuestMemory> memory = GuestMemory::create(config.memory);
  if (!memory) return memory.error();
  Result<std::unique_ptr<EventLoop>> loop = EventLoop::create();
  if (!loop) return loop.error();
  UniqueFd interrupt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!interrupt) return failure(errno, "machine", "serial port");

  std::unique_ptr<Machine> machine(new Machine(std::move(*memory), config, std::move(interrupt)));
  machine->image_ = std::move(*image);
  machine->loop_ = std::move(*loop);
  if (Status done = machine->assemble(*kvm); !done) return done.error();
  return machine;
}

Status Machine::assemble(const Kvm& kvm) {
  Result<KvmVm> vm = kvm.create_vm();
  if (!vm) return vm.error();
  vm_ = std::move(*vm);
  for (unsigned i = 0; i < memory_.slots().size(); i++)
    if (Status done = vm_.map(i, memory_.slots()[i]); !done) return done;
  if (Status done = vm_.set_tss(kTss); !done) return done;
  if (Status done = vm_.create_irqchip(); !done) return done;
  if (Status done = add_legacy(); !done) return done;

  Result<std::vector<kvm_cpuid_entry2>> supported = kvm.supported_cpuid();
  if (!supported) return supported.error();
  const bool deadline = kvm.extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  for (unsigned i = 0; i < vcpu_count_; i++) {
    Result<KvmVcpu> vcpu = vm_.create_vcpu(i);
    if (!vcpu) return vcpu.error();
    auto cpuid = guest_cpuid(*supported, {i, vcpu_count_}, deadline);
    if (!cpuid) return cpuid.error();
    // CPUID first: it decides which MSRs and control bits exist.
    if (Status done = vcpu->set_cpuid(*cpuid); !done) return done;
    if (Status done = prepare_vcpu(*vcpu); !done) return done;
    vcpus_.push_back(std::make_unique<Vcpu>(std::move(*vcpu), i, &pio_, &mmio_,
                                            [this](End why) { vcpu_left(std::move(why)); }));
  }
  return Done{};
}

Status Machine::add_legacy() {
  if (Status done = vm_.irqfd(serial_.interrupt_fd(), kSerialGsi); !done) return done;
  const bool added = pio_.add(kSerialPort, Serial::kPorts, &serial_) &&
                     pio_.add(kPowerPort, kPowerPorts, &power_) &&
                     pio_.add(kKeyboardPort, KeyboardController::kPorts, &keyboard_);
  return added ? Status(Done{}) : failure(EEXIST, "machine", "port");
}

Status Machine::add(std::unique_ptr<virtio::Device> device) {
  const size_t index = devices_.size();
  if (index == kMaxVirtio)
    return refuse("devices", "at most " + std::to_string(kMaxVirtio) + " fit");
  auto transport = virtio::Transport::create(memory_, *loop_, *device);
  if (!transport) return transport.error();
  Attached attached{std::move(device), std::move(*transport), kVirtioBase + index * kVirtioStep,
                    kVirtioFirstGsi + static_cast<uint32_t>(index)};
  if (Status done = wire(attached); !done) return done;
  devices_.push_back(std::move(attached));
  return Done{};
}

Status Machine::wire(const Attached& attached) {
  const virtio::Transport& transport = *attached.transport;
  if (!mmio_.add(attached.base, virtio::Transport::kWindow, attached.transport.get()))
    return failure(EEXIST, "machine", "virtio window");
  if (Status done = vm_.irqfd(transport.irq(), attached.gsi); !done) return done;
  const std::vector<int> notifiers = transport.notifiers();
  const uint64_t doorbell = attached.base + virtio::Transport::kNotifyOffset;
  for (size_t queue = 0; queue < notifiers.size(); queue++)
    if (Status done = vm_.ioeventfd(notifiers[queue], doorbell, 4, queue); !done) return done;
  return Done{};
}

Status Machine::boot() {
  AcpiTables tables;
  tables.vcpus = vcpu_count_;
  tables.serial = true;
  for (const Attached& attached : devices_)
    tables.virtio.push_back({attached.base, virtio::Transport::kWindow, attached.gsi});
  Result<uint64_t> rsdp = write_acpi(memory_, tables);
  if (!rsdp) return rsdp.error();
  if (!write_reset_vector(memory_)) return failure(EFAULT, "boot", "reset vector");
  Result<Initrd> initrd = initrd_of(initrd_);
  if (!initrd) return initrd.error();
  if (Status done = place_boot(memory_, image_, *initrd, command_line_, *rsdp); !done) return done;
  return enter_at(vcpus_.front()->kvm(), image_.entry());
}

Status Machine::start(std::function<void(End)> on_end) {
  if (started_) return refuse("start", "it was started before");
  if (Status done = boot(); !done) return done;
  if (Status done = loop_->start(); !done) return done;
  started_ = true;
  on_end_ = std::move(on_end);
  running_ = vcpu_count_;
  for (size_t i = 0; i < vcpus_.size(); i++) {
    Status done = vcpus_[i]->start();
    if (done) continue;
    // Nobody is told of a guest that never came to be; those that run already are stopped and, as
    // the others never leave, counted out.
    {
      std::lock_guard lock(mutex_);
      on_end_ = nullptr;
    }
    end(End{End::kStopped, ""});
    for (size_t j = i; j < vcpus_.size(); j++) vcpu_left(End{});
    return done;
  }
  return Done{};
}

void Machine::end(End why) {
  {
    std::lock_guard lock(mutex_);
    if (why_) return;
    why_ = std::move(why);
  }
  for (const auto& vcpu : vcpus_) vcpu->stop();
}

void Machine::vcpu_left(End why) {
  if (why.kind != End::kStopped) end(std::move(why));
  if (running_.fetch_sub(1) == 1) loop_->post([this] { finish(); });
}

void Machine::finish() {
  serial_.flush();
  std::function<void(End)> tell;
  End why;
  {
    std::lock_guard lock(mutex_);
    finished_ = true;
    tell = std::move(on_end_);
    why = *why_;
    changed_.notify_all();
  }
  if (tell) tell(std::move(why));
}

Machine::~Machine() {
  if (started_) {
    stop();
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return finished_; });
    }
    for (const auto& vcpu : vcpus_) vcpu->join();
    loop_->stop();
  }
  // KVM's references to descriptors and memory first, then what they refer to.
  vcpus_.clear();
  vm_ = KvmVm();
}

void Machine::pause() {
  for (const auto& vcpu : vcpus_) vcpu->pause();
}

void Machine::resume() {
  for (const auto& vcpu : vcpus_) vcpu->resume();
}

}  // namespace isopod::vmm
