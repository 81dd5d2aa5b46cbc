// Toy guests on /dev/kvm: the vCPU loop, the buses, kicks, ioeventfd and irqfd, without an
// operating system. Any KVM runs these, also one that cannot boot Linux. TAP on stdout.
#include "vmm/kvm.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tap.h"
#include "vmm/bus.h"
#include "vmm/event_loop.h"
#include "vmm/memory.h"
#include "vmm/vcpu.h"

// The guests, assembled with this program. Port 0x10 takes what they have to say.
#define GUEST(name, code)                                    \
  extern "C" const uint8_t name##_begin[], name##_end[];     \
  asm(".section .rodata\n" #name "_begin:\n" code "\n" #name \
      "_end:\n"                                              \
      ".code64\n.previous\n")

GUEST(real_mode, R"(
  .code16
  mov $0x10, %dx
  mov $'o', %al
  out %al, (%dx)
  mov $'k', %al
  out %al, (%dx)
  hlt
)");

// A string instruction (several items in one exit) and a read where nothing answers.
GUEST(strings, R"(
  .code16
  cld
  mov $0x10, %dx
  mov $(1f - strings_begin + 0x1000), %si
  mov $5, %cx
  rep outsb
  mov $0x20, %dx
  in (%dx), %al
  mov $0x10, %dx
  out %al, (%dx)
  hlt
1: .ascii "hello"
)");

// Memory-mapped I/O at 0xd0000000 in 64-bit mode, all widths; then counts in rax for ever.
GUEST(long_mode, R"(
  .code64
  mov $0xd0000000, %ebx
  movb $0x11, (%rbx)
  movw $0x2222, 8(%rbx)
  movl $0x33333333, 16(%rbx)
  movabs $0x4444444444444444, %rax
  movq %rax, 24(%rbx)
  movl 32(%rbx), %eax
  movl %eax, 40(%rbx)
  mov $0x10, %dx
  mov $'m', %al
  out %al, (%dx)
  xor %eax, %eax
  xor %ecx, %ecx
1: inc %rax
  test %rcx, %rcx
  jz 1b
  mov $'r', %al
  out %al, (%dx)
  hlt
)");

// Writes to a doorbell: 1 is matched by the eventfd, 2 is not and exits.
GUEST(doorbell, R"(
  .code64
  mov $0xd0000050, %ebx
  movl $1, (%rbx)
  movl $2, (%rbx)
  movl $1, (%rbx)
  mov $0x10, %dx
  mov $'d', %al
  out %al, (%dx)
  hlt
)");

// Sets up an IDT whose every gate is the handler, unmasks IOAPIC pin 5 as vector 0x40, waits.
GUEST(interrupt, R"(
  .code64
  lea idt_pointer(%rip), %rax
  mov $0x8000, %edi
  mov $256, %ecx
  lea handler(%rip), %rax
1: movw %ax, (%rdi)
  movw $0x8, 2(%rdi)
  movw $0x8e00, 4(%rdi)
  mov %rax, %rdx
  shr $16, %rdx
  movw %dx, 6(%rdi)
  movq $0, 8(%rdi)
  add $16, %rdi
  dec %ecx
  jnz 1b
  lidt idt_pointer(%rip)
  mov $0xfee000f0, %ebx
  movl $0x1ff, (%rbx)
  mov $0xfec00000, %ebx
  movl $0x1b, (%rbx)
  movl $0, 16(%rbx)
  movl $0x1a, (%rbx)
  movl $0x40, 16(%rbx)
  mov $0x10, %dx
  mov $'w', %al
  out %al, (%dx)
  sti
2: hlt
  jmp 2b
handler:
  mov $0x10, %dx
  mov $'i', %al
  out %al, (%dx)
  mov $0xfee000b0, %ebx
  movl $0, (%rbx)
  iretq
idt_pointer:
  .word 0xfff
  .quad 0x8000
)");

// An instruction that no emulator knows, fetched from a device: KVM gives up.
GUEST(triple_fault, R"(
  .code64
  sub %rsp, %rsp
  lidt 1f(%rip)
  ud2
1: .word 0
  .quad 0
)");

namespace {

using namespace isopod;
using namespace isopod::vmm;
using tap::is;
using tap::ok;

constexpr uint64_t kCode = 0x1000;

// Keeps what the guest says, and answers reads with 0x5a bytes.
class Recorder : public BusDevice {
 public:
  void read(uint64_t, uint8_t* data, size_t size) override { memset(data, 0x5a, size); }
  void write(uint64_t offset, const uint8_t* data, size_t size) override {
    std::lock_guard lock(mutex_);
    uint64_t value = 0;
    memcpy(&value, data, size);
    writes_.push_back({offset, value, size});
    if (size == 1 && offset == 0) text_ += static_cast<char>(value);
    changed_.notify_all();
  }
  bool wait_for(const std::string& text) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20),
                             [&] { return text_.find(text) != std::string::npos; });
  }
  std::string text() {
    std::lock_guard lock(mutex_);
    return text_;
  }
  struct Write {
    uint64_t offset, value;
    size_t size;
    bool operator==(const Write& other) const {
      return offset == other.offset && value == other.value && size == other.size;
    }
  };
  std::vector<Write> writes() {
    std::lock_guard lock(mutex_);
    return writes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::vector<Write> writes_;
};

struct Toy {
  Kvm kvm;
  KvmVm vm;
  GuestMemory memory;
  Recorder port, device;
  Bus pio, mmio;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<End> ends;
  std::unique_ptr<Vcpu> vcpu;

  Toy(Kvm made, GuestMemory ram) : kvm(std::move(made)), memory(std::move(ram)) {}

  bool wait_end() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(20), [&] { return !ends.empty(); });
  }
};

template <typename T>
T must(Result<T> result, const char* what) {
  if (!result) {
    std::printf("Bail out! %s: %s %s\n", what, result.error().subject.c_str(),
                strerror(result.error().err));
    exit(1);
  }
  return std::move(*result);
}

void segment(kvm_segment& into, uint16_t selector, uint8_t type, bool code64) {
  into = {};
  into.selector = selector;
  into.limit = 0xffffffff;
  into.type = type;
  into.present = 1;
  into.s = 1;
  into.g = 1;
  into.l = code64;
  into.db = !code64;
}

// 64-bit mode with the first 4 GiB mapped one to one; tables at 0x10000.
void enter_long_mode(Toy& toy, kvm_sregs& sregs) {
  toy.memory.write(0x10000, uint64_t{0x11003});
  for (uint64_t i = 0; i < 4; i++) {
    toy.memory.write(0x11000 + i * 8, uint64_t{0x12003 + i * 0x1000});
    for (uint64_t j = 0; j < 512; j++)
      toy.memory.write(0x12000 + i * 0x1000 + j * 8, (i << 30) + (j << 21) + 0x83);
  }
  // Null, 64-bit code at 8, data at 16.
  toy.memory.write(0x500, uint64_t{0});
  toy.memory.write(0x508, uint64_t{0x00af9b000000ffff});
  toy.memory.write(0x510, uint64_t{0x00cf93000000ffff});
  sregs.gdt.base = 0x500;
  sregs.gdt.limit = 23;
  sregs.cr3 = 0x10000;
  sregs.cr4 = 0x20;
  sregs.cr0 = 0x80000011;
  sregs.efer = 0x500;
  segment(sregs.cs, 8, 0xb, true);
  for (kvm_segment* data : {&sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss})
    segment(*data, 16, 3, false);
}

enum class Mode { kReal, kLong };

std::unique_ptr<Toy> make(Mode mode, const uint8_t* begin, const uint8_t* end,
                          bool irqchip = false) {
  auto toy = std::make_unique<Toy>(must(Kvm::open(), "opening KVM"),
                                   must(GuestMemory::create(kMinMemory), "memory"));
  toy->vm = must(toy->kvm.create_vm(), "KVM_CREATE_VM");
  must(toy->vm.map(0, toy->memory.slots()[0]), "memory slot");
  if (irqchip) must(toy->vm.create_irqchip(), "irqchip");
  KvmVcpu vcpu = must(toy->vm.create_vcpu(0), "KVM_CREATE_VCPU");
  must(vcpu.set_cpuid(must(toy->kvm.supported_cpuid(), "cpuid")), "set cpuid");
  const auto size = static_cast<size_t>(end - begin);
  memcpy(toy->memory.span(kCode, size)->data, begin, size);
  kvm_sregs sregs = must(vcpu.sregs(), "sregs");
  if (mode == Mode::kReal) {
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
  } else {
    enter_long_mode(*toy, sregs);
  }
  must(vcpu.set_sregs(sregs), "set sregs");
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rsp = 0x7000;
  regs.rflags = 2;
  must(vcpu.set_regs(regs), "set regs");
  if (!toy->pio.add(0x10, 1, &toy->port) || !toy->mmio.add(0xd0000000, 0x1000, &toy->device))
    ok(false, "devices are on the buses");
  Toy* raw = toy.get();
  toy->vcpu = std::make_unique<Vcpu>(std::move(vcpu), 0, &toy->pio, &toy->mmio, [raw](End why) {
    std::lock_guard lock(raw->mutex);
    raw->ends.push_back(std::move(why));
    raw->changed.notify_all();
  });
  return toy;
}

#define MAKE(mode, name, ...) make(mode, name##_begin, name##_end, ##__VA_ARGS__)

void real_mode() {
  auto toy = MAKE(Mode::kReal, real_mode);
  must(toy->vcpu->start(), "start");
  ok(toy->wait_end(), "a real mode guest comes to its end");
  is(toy->port.text(), "ok", "what it wrote to a port arrived, in order");
  is(static_cast<int>(toy->ends.at(0).kind), static_cast<int>(End::kHalted),
     "HLT ends it where there is no interrupt controller");
}

void strings() {
  auto toy = MAKE(Mode::kReal, strings);
  must(toy->vcpu->start(), "start");
  ok(toy->wait_end(), "a guest with string output ends");
  is(toy->port.text(), "hello\xff",
     "rep outsb arrives item by item; a port without a device reads all ones");
}

void long_mode() {
  auto toy = MAKE(Mode::kLong, long_mode);
  must(toy->vcpu->start(), "start");
  ok(toy->port.wait_for("m"), "a 64-bit guest gets past its memory-mapped accesses");
  const std::vector<Recorder::Write> wanted = {{0, 0x11, 1},
                                               {8, 0x2222, 2},
                                               {16, 0x33333333, 4},
                                               {24, 0x4444444444444444, 8},
                                               {40, 0x5a5a5a5a, 4}};
  ok(toy->device.writes() == wanted, "every width and the value read back arrived");

  toy->vcpu->pause();
  kvm_regs first = must(toy->vcpu->kvm().regs(), "regs");
  kvm_regs second = must(toy->vcpu->kvm().regs(), "regs");
  ok(first.rax == second.rax && first.rip == second.rip, "paused, it does not move");
  toy->vcpu->resume();
  kvm_regs third{};
  for (int i = 0; i < 2000 && (i == 0 || third.rax == second.rax); i++) {
    ::poll(nullptr, 0, 5);
    toy->vcpu->pause();
    third = must(toy->vcpu->kvm().regs(), "regs");
    toy->vcpu->resume();
  }
  ok(third.rax != second.rax, "resumed, it goes on from where it was");
  for (int i = 0; i < 100; i++) {
    toy->vcpu->pause();
    toy->vcpu->resume();
  }
  toy->vcpu->pause();
  third = must(toy->vcpu->kvm().regs(), "regs");
  third.rcx = 1;
  must(toy->vcpu->kvm().set_regs(third), "set regs");
  toy->vcpu->resume();
  ok(toy->port.wait_for("r"), "registers written while paused hold");
  ok(toy->wait_end(), "and it ends");
}

// The writes before it are exits; a pause just after one must have completed it.
void pause_completes() {
  auto toy = MAKE(Mode::kLong, long_mode);
  must(toy->vcpu->start(), "start");
  toy->vcpu->pause();
  const kvm_regs before = must(toy->vcpu->kvm().regs(), "regs");
  must(toy->vcpu->kvm().set_regs(before), "set regs");
  toy->vcpu->resume();
  ok(toy->port.wait_for("m"), "paused at any point and given its registers again, it goes on");
  is(toy->device.writes().size(), size_t{5}, "and no access is made twice or lost");
}

void stop_a_loop() {
  for (int round = 0; round < 20; round++) {
    auto toy = MAKE(Mode::kLong, long_mode);
    must(toy->vcpu->start(), "start");
    if (round % 2 == 0) toy->port.wait_for("m");
    toy->vcpu->stop();
    toy->vcpu->join();
    toy->vcpu->stop();
    toy->vcpu->pause();
    if (toy->ends.size() != 1 || toy->ends[0].kind != End::kStopped) ok(false, "stopped, once");
  }
  ok(true, "a guest that loops is stopped, again and again, at any point");
}

void doorbell() {
  auto toy = MAKE(Mode::kLong, doorbell);
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  must(toy->vm.ioeventfd(bell.get(), 0xd0000050, 4, 1), "ioeventfd");
  auto loop = must(EventLoop::create(), "loop");
  std::atomic<uint64_t> rung{0};
  ok(loop->watch(bell.get(), EPOLLIN,
                 [&](uint32_t) {
                   uint64_t count = 0;
                   if (::read(bell.get(), &count, sizeof(count)) == sizeof(count)) rung += count;
                 }),
     "the loop watches an eventfd");
  must(loop->start(), "loop");
  must(toy->vcpu->start(), "start");
  ok(toy->port.wait_for("d"), "a guest rings its doorbells");
  const std::vector<Recorder::Write> wanted = {{0x50, 2, 4}};
  ok(toy->device.writes() == wanted, "the matched value made no exit, the other did");
  for (int i = 0; i < 2000 && rung < 2; i++) ::poll(nullptr, 0, 5);
  is(rung.load(), uint64_t{2}, "the loop saw both");
  loop->stop();
}

void interrupt() {
  auto toy = MAKE(Mode::kLong, interrupt, true);
  UniqueFd line(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  must(toy->vm.irqfd(line.get(), 5), "irqfd");
  must(toy->vcpu->start(), "start");
  ok(toy->port.wait_for("w"), "a guest waits for an interrupt");
  const uint64_t one = 1;
  for (const char* wanted : {"wi", "wii"}) {
    ok(::write(line.get(), &one, sizeof(one)) == sizeof(one) && toy->port.wait_for(wanted),
       "an eventfd becomes an interrupt in the guest");
  }
  toy->vcpu->pause();
  toy->vcpu->resume();
  ok(::write(line.get(), &one, sizeof(one)) == sizeof(one) && toy->port.wait_for("wiii"),
     "also after a pause in HLT");
}

void triple_fault() {
  auto toy = MAKE(Mode::kLong, triple_fault);
  must(toy->vcpu->start(), "start");
  ok(toy->wait_end(), "a guest without exception handlers ends at its first fault");
  const End& end = toy->ends.at(0);
  is(static_cast<int>(end.kind), static_cast<int>(End::kShutdown), "as a shutdown");
  ok(end.detail.find("rip 0x") != std::string::npos, "that names registers");
}

}  // namespace

int main() {
  real_mode();
  strings();
  long_mode();
  pause_completes();
  stop_a_loop();
  doorbell();
  interrupt();
  triple_fault();
  return tap::done();
}
