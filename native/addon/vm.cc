// Virtual machines. A handle stands for a Vm, which owns the machine until vmClose; whatever waits
// (machine's making, its end) does so on a job's thread or the machine's own, never on
// JavaScript's.
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "addon/exports.h"
#include "addon/options.h"
#include "addon/promise.h"
#include "core/jobs.h"
#include "vmm/boot_image.h"
#include "vmm/kvm.h"
#include "vmm/machine.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/fs.h"
#include "vmm/virtio/net.h"
#include "vmm/virtio/rng.h"
#include "vmm/virtio/vsock.h"

namespace isopod::addon {
namespace {

using vmm::End;
using vmm::Machine;

// Streams that a guest opened and nobody took yet; more are closed at once.
constexpr size_t kMaxArrived = 64;
constexpr size_t kMaxKernel = size_t{256} << 20;

struct Port {
  std::deque<UniqueFd> arrived;
  std::deque<Deferred> accepting;
};

struct Vm {
  std::mutex mutex;                     // guards all below
  std::unique_ptr<Machine> machine;     // none once closed
  vmm::virtio::Vsock* vsock = nullptr;  // the machine's
  std::map<uint32_t, Port> ports;
  std::vector<Deferred> waiting;
  bool started = false;
  bool ended = false;
  End end;
  std::string serial;  // kept at the end
};

std::mutex registry_mutex;
// Never destroyed: machines may still run when the process ends.
auto& registry = *new std::map<int64_t, std::shared_ptr<Vm>>();
int64_t next_vm = 1;

Error over(const char* step) {
  return Error{ENOTCONN, step, "", "", "the virtual machine is over", "UNAVAILABLE"};
}

// Null if there is none (any more).
std::shared_ptr<Vm> find_vm(Options& options) {
  const int64_t handle = options.number("vm");
  if (!options.ok()) return nullptr;
  std::lock_guard lock(registry_mutex);
  const auto found = registry.find(handle);
  return found == registry.end() ? nullptr : found->second;
}

// The same, but then an exception waits.
std::shared_ptr<Vm> vm_of(const Napi::CallbackInfo& info, Options& options) {
  std::shared_ptr<Vm> vm = find_vm(options);
  if (!vm && options.ok()) throw_error(info.Env(), over("machine"));
  return vm;
}

// A descriptor that becomes JavaScript's when the promise does, and is closed if that never
// happens.
void resolve_fd(const Deferred& deferred, UniqueFd fd) {
  auto held = std::make_shared<UniqueFd>(std::move(fd));
  deferred.resolve(
      [held](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, held->release()); });
}

const char* reason_of(End::Kind kind) {
  switch (kind) {
    case End::kStopped:
      return "stopped";
    case End::kPowerOff:
      return "poweroff";
    case End::kReset:
      return "reset";
    case End::kShutdown:
      return "shutdown";
    case End::kHalted:
      return "halted";
    default:
      return "error";
  }
}

void resolve_end(const Deferred& deferred, const End& end, const std::string& serial) {
  deferred.resolve([end, serial](Napi::Env env) -> Napi::Value {
    Napi::Object value = Napi::Object::New(env);
    value.Set("reason", reason_of(end.kind));
    value.Set("detail", end.detail);
    value.Set("serial", Napi::Buffer<char>::Copy(env, serial.data(), serial.size()));
    return value;
  });
}

// Settles all that waits. With the lock held.
void settle(Vm& vm) {
  for (const Deferred& deferred : vm.waiting) resolve_end(deferred, vm.end, vm.serial);
  vm.waiting.clear();
  for (auto& [number, port] : vm.ports)
    for (const Deferred& deferred : port.accepting) deferred.reject(over("accept"));
  vm.ports.clear();
}

// Runs `work` on a job's thread, with the machine held open.
Napi::Value on_machine(Napi::Env env, std::shared_ptr<Vm> vm, std::function<Status(Vm&)> work) {
  Deferred deferred(env);
  core::run_job([deferred, vm = std::move(vm), work = std::move(work)] {
    std::lock_guard lock(vm->mutex);
    if (!vm->machine) return deferred.reject(over("machine"));
    Status done = work(*vm);
    done ? deferred.resolve() : deferred.reject(done.error());
  });
  return deferred.promise();
}

// --- kernels ------------------------------------------------------------------------------------

Result<std::vector<uint8_t>> read_whole(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.get(), &status) < 0) return failure(errno, "kernel", path);
  if (!S_ISREG(status.st_mode) || static_cast<uint64_t>(status.st_size) > kMaxKernel)
    return Error{0, "kernel", path, "", "no regular file of at most 256 MiB", "INVALID_ARGUMENT"};
  std::vector<uint8_t> content(static_cast<size_t>(status.st_size));
  size_t have = 0;
  while (have < content.size()) {
    const ssize_t n = ::read(file.get(), content.data() + have, content.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure(errno, "kernel", path);
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  content.resize(have);
  return content;
}

Status make_image(const std::string& kernel, const std::string& image) {
  Result<std::vector<uint8_t>> content = read_whole(kernel);
  if (!content) return content.error();
  // Several machines of one kernel may be started at once: each makes its own, the last one stays.
  static std::atomic<unsigned> sequence{0};
  const std::string partial =
      image + "." + std::to_string(::getpid()) + "." + std::to_string(sequence++) + ".partial";
  UniqueFd to(::open(partial.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0444));
  if (!to) return failure(errno, "write boot image", image);
  Status done = vmm::BootImage::write(to.get(), std::move(*content));
  if (done && ::rename(partial.c_str(), image.c_str()) == 0) return Done{};
  Error error = done ? failure(errno, "write boot image", image) : done.error();
  ::unlink(partial.c_str());
  // What is wrong with a kernel is told with its name.
  if (error.subject.empty()) error.subject = error.step == std::string("kernel") ? kernel : image;
  return error;
}

Napi::Value VmImage(const Napi::CallbackInfo& info) {
  Options options(info);
  std::string kernel = options.text("kernel"), image = options.text("image");
  if (!options.ok()) return info.Env().Undefined();
  Deferred deferred(info.Env());
  core::run_job([deferred, kernel = std::move(kernel), image = std::move(image)] {
    Status done = make_image(kernel, image);
    done ? deferred.resolve() : deferred.reject(done.error());
  });
  return deferred.promise();
}

Napi::Value VmProbe(const Napi::CallbackInfo& info) {
  Result<vmm::Kvm> kvm = vmm::Kvm::open();
  if (!kvm) throw_error(info.Env(), kvm.error());
  return info.Env().Undefined();
}

// --- a machine's life ---------------------------------------------------------------------------

Result<std::shared_ptr<Vm>> make_vm(vmm::MachineConfig config) {
  Result<std::unique_ptr<Machine>> machine = Machine::create(std::move(config));
  if (!machine) return machine.error();
  vmm::Loop& loop = (*machine)->loop();
  auto vsock = std::make_unique<vmm::virtio::Vsock>(loop);
  auto vm = std::make_shared<Vm>();
  vm->vsock = vsock.get();
  if (Status done = (*machine)->add(std::move(vsock)); !done) return done.error();
  if (Status done = (*machine)->add(std::make_unique<vmm::virtio::Rng>(loop)); !done)
    return done.error();
  vm->machine = std::move(*machine);
  return vm;
}

Napi::Value VmCreate(const Napi::CallbackInfo& info) {
  Options options(info);
  auto config = std::make_shared<vmm::MachineConfig>();
  config->console = options.has("console") ? options.taken("console") : UniqueFd();
  const int64_t memory = options.number("memory"), vcpus = options.number("vcpus");
  config->command_line = options.text("commandLine");
  config->kernel = options.duplicate("kernel");
  if (options.has("initrd")) config->initrd = options.duplicate("initrd");
  if (options.has("kvm")) config->kvm = options.duplicate("kvm");
  if (options.ok() && memory < 0) options.refuse("memory", "is negative");
  if (options.ok() && (vcpus < 0 || vcpus > UINT32_MAX)) options.refuse("vcpus", "out of range");
  if (!options.ok()) return info.Env().Undefined();
  config->memory = static_cast<uint64_t>(memory);
  config->vcpus = static_cast<unsigned>(vcpus);
  Deferred deferred(info.Env());
  core::run_job([deferred, config] {
    Result<std::shared_ptr<Vm>> vm = make_vm(std::move(*config));
    if (!vm) return deferred.reject(vm.error());
    std::lock_guard lock(registry_mutex);
    const int64_t handle = next_vm++;
    registry[handle] = *vm;
    deferred.resolve([handle](Napi::Env env) -> Napi::Value {
      return Napi::Number::New(env, static_cast<double>(handle));
    });
  });
  return deferred.promise();
}

Napi::Value VmStart(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  if (!vm) return info.Env().Undefined();
  // The machine is destroyed before the last reference to the Vm goes: its thread may look at it.
  Vm* raw = vm.get();
  return on_machine(info.Env(), std::move(vm), [raw](Vm& held) -> Status {
    Status started = held.machine->start([raw](End end) {
      std::lock_guard lock(raw->mutex);
      raw->ended = true;
      raw->end = std::move(end);
      if (raw->machine) raw->serial = raw->machine->serial();
      settle(*raw);
    });
    held.started = held.started || started.ok();
    return started;
  });
}

Napi::Value VmWait(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  if (!vm) return info.Env().Undefined();
  Deferred deferred(info.Env());
  std::lock_guard lock(vm->mutex);
  if (vm->ended)
    resolve_end(deferred, vm->end, vm->serial);
  else if (!vm->machine)
    deferred.reject(over("machine"));
  else
    vm->waiting.push_back(deferred);
  return deferred.promise();
}

Napi::Value VmStop(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = find_vm(options);
  if (!vm) return info.Env().Undefined();
  // Not inline: starting holds the lock.
  core::run_job([vm] {
    std::lock_guard lock(vm->mutex);
    if (vm->machine) vm->machine->stop();
  });
  return info.Env().Undefined();
}

Napi::Value VmSerial(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  if (!vm) return info.Env().Undefined();
  std::lock_guard lock(vm->mutex);
  const std::string text = vm->machine ? vm->machine->serial() : vm->serial;
  return Napi::Buffer<char>::Copy(info.Env(), text.data(), text.size());
}

Napi::Value VmClose(const Napi::CallbackInfo& info) {
  Options options(info);
  const int64_t handle = options.number("vm");
  if (!options.ok()) return info.Env().Undefined();
  Deferred deferred(info.Env());
  core::run_job([deferred, handle] {
    std::shared_ptr<Vm> vm;
    {
      std::lock_guard lock(registry_mutex);
      if (auto entry = registry.extract(handle)) vm = std::move(entry.mapped());
    }
    if (!vm) return deferred.resolve();
    std::unique_ptr<Machine> machine;
    {
      std::lock_guard lock(vm->mutex);
      machine = std::move(vm->machine);
      vm->vsock = nullptr;
    }
    // Waits for the end, which settles what waits; unless the guest never ran.
    machine.reset();
    std::lock_guard lock(vm->mutex);
    settle(*vm);
    deferred.resolve();
  });
  return deferred.promise();
}

// --- devices, before the start ------------------------------------------------------------------

Status not_started(const Vm& vm) {
  if (!vm.started) return Done{};
  return Error{0, "machine", "", "", "devices are added before the start", "FAILED_PRECONDITION"};
}

// Makes a device of `Options` and adds it.
template <typename Device, typename Settings>
Napi::Value add_device(const Napi::CallbackInfo& info, std::shared_ptr<Vm> vm, Settings settings) {
  auto held = std::make_shared<Settings>(std::move(settings));
  return on_machine(info.Env(), std::move(vm), [held](Vm& owner) -> Status {
    if (Status before = not_started(owner); !before) return before;
    auto device = Device::create(owner.machine->loop(), std::move(*held));
    if (!device) return device.error();
    return owner.machine->add(std::move(*device));
  });
}

Napi::Value VmAddDisk(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  vmm::virtio::BlkOptions settings;
  settings.serial = options.text("serial");
  settings.read_only = options.flag_or("readOnly", false);
  settings.file = options.duplicate("file");
  if (!vm || !options.ok()) return info.Env().Undefined();
  return add_device<vmm::virtio::Blk>(info, std::move(vm), std::move(settings));
}

// Six pairs of hexadecimal digits with colons between them.
bool parse_mac(const std::string& text, std::array<uint8_t, 6>& mac) {
  unsigned b[6];
  int end = 0;
  if (sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
             &end) != 6 ||
      static_cast<size_t>(end) != text.size())
    return false;
  for (size_t i = 0; i < 6; i++) mac[i] = static_cast<uint8_t>(b[i]);
  return true;
}

Napi::Value VmAddNetwork(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  vmm::virtio::NetOptions settings;
  const int64_t mtu = options.number("mtu");
  if (!parse_mac(options.text("mac"), settings.mac)) options.refuse("mac", "is no MAC address");
  if (mtu < 68 || mtu > 65535) options.refuse("mtu", "must be 68 to 65535");
  settings.mtu = static_cast<uint16_t>(mtu);
  settings.tap = options.duplicate("tap");
  if (!vm || !options.ok()) return info.Env().Undefined();
  return add_device<vmm::virtio::Net>(info, std::move(vm), std::move(settings));
}

Napi::Value VmAddShare(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  vmm::virtio::FsOptions settings;
  settings.tag = options.text("tag");
  settings.server = options.taken("server");
  if (!vm || !options.ok()) return info.Env().Undefined();
  return add_device<vmm::virtio::Fs>(info, std::move(vm), std::move(settings));
}

// --- streams ------------------------------------------------------------------------------------

// Rejects when it goes without having been settled: a task that the loop dropped at its end.
struct Answer {
  explicit Answer(Deferred to) : deferred(std::move(to)) {}
  ~Answer() { deferred.reject(over("connect")); }
  Deferred deferred;
};

bool port_of(Options& options, uint32_t* port) {
  const int64_t number = options.number("port");
  if (options.ok() && (number < 0 || number >= UINT32_MAX)) options.refuse("port", "out of range");
  *port = static_cast<uint32_t>(number);
  return options.ok();
}

Napi::Value VmConnect(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  uint32_t port;
  if (!vm || !port_of(options, &port)) return info.Env().Undefined();
  Deferred deferred(info.Env());
  auto answer = std::make_shared<Answer>(deferred);
  std::lock_guard lock(vm->mutex);
  if (vm->machine && vm->started && !vm->ended) {
    vm->machine->loop().post([vsock = vm->vsock, port, answer = std::move(answer)] {
      vsock->connect(port, [answer](Result<UniqueFd> stream) {
        if (stream)
          resolve_fd(answer->deferred, std::move(*stream));
        else
          answer->deferred.reject(stream.error());
      });
    });
  }
  return deferred.promise();
}

// On the loop's thread.
void arrived(const std::weak_ptr<Vm>& owner, uint32_t number, UniqueFd stream) {
  const std::shared_ptr<Vm> vm = owner.lock();
  if (!vm) return;
  std::lock_guard lock(vm->mutex);
  const auto port = vm->ports.find(number);
  if (port == vm->ports.end()) return;
  if (!port->second.accepting.empty()) {
    resolve_fd(port->second.accepting.front(), std::move(stream));
    port->second.accepting.pop_front();
  } else if (port->second.arrived.size() < kMaxArrived) {
    port->second.arrived.push_back(std::move(stream));
  }
}

Napi::Value VmListen(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  uint32_t number;
  if (!vm || !port_of(options, &number)) return info.Env().Undefined();
  std::lock_guard lock(vm->mutex);
  if (!vm->machine || vm->ended) {
    throw_error(info.Env(), over("listen"));
  } else if (!vm->ports.try_emplace(number).second) {
    throw_error(info.Env(), failure(EADDRINUSE, "listen", std::to_string(number)));
  } else {
    // Runs before the guest does, if it has not been started.
    vm->machine->loop().post([vsock = vm->vsock, number, owner = std::weak_ptr<Vm>(vm)] {
      (void)vsock->listen(number, [owner, number](UniqueFd stream, uint32_t) {
        arrived(owner, number, std::move(stream));
      });
    });
  }
  return info.Env().Undefined();
}

Napi::Value VmAccept(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = vm_of(info, options);
  uint32_t number;
  if (!vm || !port_of(options, &number)) return info.Env().Undefined();
  Deferred deferred(info.Env());
  std::lock_guard lock(vm->mutex);
  const auto port = vm->ports.find(number);
  if (port == vm->ports.end()) {
    deferred.reject(vm->ended ? over("accept") : failure(EINVAL, "accept", std::to_string(number)));
  } else if (!port->second.arrived.empty()) {
    resolve_fd(deferred, std::move(port->second.arrived.front()));
    port->second.arrived.pop_front();
  } else {
    port->second.accepting.push_back(deferred);
  }
  return deferred.promise();
}

Napi::Value VmUnlisten(const Napi::CallbackInfo& info) {
  Options options(info);
  std::shared_ptr<Vm> vm = find_vm(options);
  uint32_t number;
  if (!vm || !port_of(options, &number)) return info.Env().Undefined();
  std::lock_guard lock(vm->mutex);
  const auto port = vm->ports.find(number);
  if (port == vm->ports.end()) return info.Env().Undefined();
  for (const Deferred& deferred : port->second.accepting)
    deferred.reject(Error{ECANCELED, "accept", "", "", "no longer listening", "CANCELLED"});
  vm->ports.erase(port);
  if (vm->machine)
    vm->machine->loop().post([vsock = vm->vsock, number] { vsock->unlisten(number); });
  return info.Env().Undefined();
}

}  // namespace

void export_vm(Napi::Env env, Napi::Object exports) {
  exports.Set("vmImage", Napi::Function::New(env, VmImage));
  exports.Set("vmProbe", Napi::Function::New(env, VmProbe));
  exports.Set("vmCreate", Napi::Function::New(env, VmCreate));
  exports.Set("vmAddDisk", Napi::Function::New(env, VmAddDisk));
  exports.Set("vmAddNetwork", Napi::Function::New(env, VmAddNetwork));
  exports.Set("vmAddShare", Napi::Function::New(env, VmAddShare));
  exports.Set("vmStart", Napi::Function::New(env, VmStart));
  exports.Set("vmWait", Napi::Function::New(env, VmWait));
  exports.Set("vmStop", Napi::Function::New(env, VmStop));
  exports.Set("vmSerial", Napi::Function::New(env, VmSerial));
  exports.Set("vmConnect", Napi::Function::New(env, VmConnect));
  exports.Set("vmListen", Napi::Function::New(env, VmListen));
  exports.Set("vmAccept", Napi::Function::New(env, VmAccept));
  exports.Set("vmUnlisten", Napi::Function::New(env, VmUnlisten));
  exports.Set("vmClose", Napi::Function::New(env, VmClose));
}

}  // namespace isopod::addon
