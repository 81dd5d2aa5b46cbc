// Whole machines with kernels of a few instructions: their ends, and taking them down in any state.
// Any KVM runs these. TAP on stdout.
#include "vmm/machine.h"

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tap.h"
#include "vmm/boot_image.h"
#include "vmm/layout.h"
#include "vmm/little_endian.h"
#include "vmm/virtio/rng.h"
#include "vmm/virtio/vsock.h"

namespace {

using namespace isopod;
using namespace isopod::vmm;
using tap::is;
using tap::ok;
using Code = std::vector<uint8_t>;

// 32-bit protected mode, as PVH begins.
const Code kPowerOff = {0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4, 0xeb, 0xfd};
const Code kReset = {0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd};
const Code kResetRegister = {0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd};
const Code kLoop = {0xeb, 0xfe};
const Code kHalt = {0xf4, 0xeb, 0xfd};
// Jumps to the reset vector: mov $0xffff0, %eax; jmp *%eax.
const Code kVector = {0xb8, 0xf0, 0xff, 0x0f, 0x00, 0xff, 0xe0};
// For ever: brings the first virtio device to DRIVER with its own FEATURES_OK, then resets it.
const Code kProbe = {
    0xbb, 0x70, 0x00, 0x00, 0xd0,        // mov $0xd0000070, %ebx
    0xc7, 0x03, 1,    0,    0,    0,     // movl $1, (%ebx)
    0xc7, 0x03, 3,    0,    0,    0,     // movl $3, (%ebx)
    0xc7, 0x43, 0xb4, 1,    0,    0, 0,  // movl $1, 0x24-0x70(%ebx)
    0xc7, 0x43, 0xb0, 1,    0,    0, 0,  // movl $1, 0x20-0x70(%ebx)
    0xc7, 0x03, 0x0b, 0,    0,    0,     // movl $0xb, (%ebx)
    0xc7, 0x03, 0x0f, 0,    0,    0,     // movl $0xf, (%ebx)
    0xc7, 0x03, 0,    0,    0,    0,     // movl $0, (%ebx)
    0xeb, 0xce,                          // again
};

Code kernel_of(const Code& code) {
  Bytes elf;
  Elf64_Ehdr header{};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 2;
  Elf64_Phdr programs[2]{};
  programs[0].p_type = PT_LOAD;
  programs[0].p_offset = 0x200;
  programs[0].p_paddr = 0x1000000;
  programs[0].p_filesz = code.size();
  programs[0].p_memsz = 0x1000;
  programs[1].p_type = PT_NOTE;
  programs[1].p_offset = 0x100;
  programs[1].p_filesz = 24;
  elf.zeros(0x200).append(code);
  memcpy(elf.data().data(), &header, sizeof(header));
  memcpy(elf.data().data() + sizeof(header), programs, sizeof(programs));
  const Code note = Bytes().u32(4).u32(8).u32(18).text("Xen").u8(0).u64(0x1000000).data();
  memcpy(elf.data().data() + 0x100, note.data(), note.size());
  return std::move(elf.data());
}

struct Running {
  std::promise<End> ended;
  std::future<End> end = ended.get_future();
  std::unique_ptr<Machine> machine;  // goes first
};

std::unique_ptr<Running> make(const Code& code, unsigned vcpus = 1) {
  MachineConfig config;
  config.memory = kMinMemory;
  config.vcpus = vcpus;
  config.kernel = UniqueFd(::memfd_create("kernel", MFD_CLOEXEC));
  Status written = BootImage::write(config.kernel.get(), kernel_of(code));
  auto running = std::make_unique<Running>();
  Result<std::unique_ptr<Machine>> machine = Machine::create(std::move(config));
  if (!written || !machine) {
    std::printf("Bail out! %s %s\n", machine ? "" : machine.error().subject.c_str(),
                machine ? "" : machine.error().why.c_str());
    exit(1);
  }
  running->machine = std::move(*machine);
  Loop& loop = running->machine->loop();
  if (!running->machine->add(std::make_unique<virtio::Vsock>(loop)) ||
      !running->machine->add(std::make_unique<virtio::Rng>(loop)))
    ok(false, "devices are added");
  return running;
}

Status start(Running& running) {
  return running.machine->start([&](End end) { running.ended.set_value(std::move(end)); });
}

void ends() {
  const std::pair<const Code*, End::Kind> cases[] = {{&kPowerOff, End::kPowerOff},
                                                     {&kReset, End::kReset},
                                                     {&kResetRegister, End::kReset},
                                                     {&kVector, End::kReset}};
  for (const auto& [code, kind] : cases) {
    auto running = make(*code);
    ok(start(*running).ok(), "a machine starts");
    is(static_cast<int>(running->end.get().kind), static_cast<int>(kind), "and ends as it asks to");
    ok(!start(*running), "it does not start twice");
  }
}

void taken_down() {
  { auto never = make(kLoop); }
  ok(true, "one that was never started goes");
  {
    auto stopped = make(kLoop);
    stopped->machine->stop();
    ok(start(*stopped).ok() && stopped->end.get().kind == End::kStopped,
       "stopped before its start, it ends as it starts");
  }
  for (const Code* code : {&kLoop, &kHalt, &kProbe}) {
    for (int i = 0; i < 10; i++) {
      auto running = make(*code, i % 2 == 0 ? 1 : 3);
      if (!start(*running)) ok(false, "a machine starts");
      if (i % 3 == 0) ::usleep(2000);
      if (i % 2 == 0) running->machine->stop();
      running->machine.reset();
      if (running->end.get().kind != End::kStopped) ok(false, "it was stopped");
    }
  }
  ok(true, "one that loops, halts, or is resetting a device goes at any point");
}

void paused() {
  auto running = make(kProbe, 2);
  ok(start(*running).ok(), "a machine with two processors starts");
  for (int i = 0; i < 50; i++) {
    running->machine->pause();
    running->machine->resume();
  }
  running->machine->pause();
  running->machine->stop();
  is(static_cast<int>(running->end.get().kind), static_cast<int>(End::kStopped),
     "paused and resumed again and again, it is stopped while paused");
}

void full() {
  auto running = make(kLoop);
  for (unsigned i = 2; i < kMaxVirtio; i++)
    if (!running->machine->add(std::make_unique<virtio::Rng>(running->machine->loop())))
      ok(false, "a device too few fits");
  Status more = running->machine->add(std::make_unique<virtio::Rng>(running->machine->loop()));
  ok(!more && more.error().why == "at most 19 fit", "a device too many is refused");
  ok(start(*running).ok(), "the largest machine starts");
}

}  // namespace

int main() {
  ends();
  taken_down();
  paused();
  full();
  return tap::done();
}
