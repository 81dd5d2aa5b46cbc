// Kernel files, good and hostile: LZ4, bzImage, ELF with its PVH note, boot images; and what is
// written into guest memory for the kernel: start_info, memory map, ACPI tables. TAP on stdout.
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tap.h"
#include "vmm/acpi.h"
#include "vmm/aml.h"
#include "vmm/boot.h"
#include "vmm/boot_image.h"
#include "vmm/kernel.h"
#include "vmm/layout.h"
#include "vmm/little_endian.h"
#include "vmm/lz4.h"

namespace {

using namespace isopod;
using namespace isopod::vmm;
using tap::is;
using tap::ok;
using Data = std::vector<uint8_t>;

std::string text(const Data& data) { return std::string(data.begin(), data.end()); }

std::string inflate(const Data& in, size_t room) {
  Data out(room);
  const auto size = lz4_block(in.data(), in.size(), out.data(), room);
  return size ? text(Data(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(*size))) : "?";
}

// A block of literals only.
Data stored(const Data& content) {
  Bytes out;
  out.u8(content.size() < 15 ? static_cast<uint32_t>(content.size()) << 4 : 0xf0);
  if (content.size() >= 15) {
    size_t more = content.size() - 15;
    for (; more >= 255; more -= 255) out.u8(255);
    out.u8(static_cast<uint32_t>(more));
  }
  return out.append(content).data();
}

Data legacy(const Data& content) {
  const Data block = stored(content);
  return Bytes().u32(kLz4LegacyMagic).u32(static_cast<uint32_t>(block.size())).append(block).data();
}

void lz4() {
  is(inflate({0x30, 'a', 'b', 'c'}, 3), "abc", "literals alone");
  is(inflate({0x3f, 'a', 'b', 'c', 3, 0, 5, 0x10, 'd'}, 100),
     "abc" + std::string(8, 'x').replace(0, 8, "abcabcab") + std::string("cabcabcabcabcabc") + "d",
     "a match that runs into what it makes, its length continued");
  is(inflate({0x30, 'a', 'b', 'c'}, 2), "?", "more than there is room for is refused");
  for (const Data& bad : std::vector<Data>{{},
                                           {0x30, 'a', 'b'},
                                           {0xf0},
                                           {0xf0, 255},
                                           {0x14, 'a', 0, 0, 0x10, 'b'},
                                           {0x14, 'a', 2, 0, 0x10, 'b'},
                                           {0x14, 'a', 1},
                                           {0x1f, 'a', 1, 0, 255},
                                           {0x10, 'a', 1, 0}})
    if (inflate(bad, 64) != "?") ok(false, "damaged block accepted");
  ok(true, "blocks that end early or reach before their beginning are refused");

  const Data content(1000, 'z'), frame = legacy(content);
  ok(lz4_legacy(frame.data(), frame.size(), 1000) == content, "a legacy frame inflates");
  ok(!lz4_legacy(frame.data(), frame.size(), 999) && !lz4_legacy(frame.data(), frame.size(), 1001),
     "to the promised length and no other");
  ok(!lz4_legacy(frame.data(), frame.size(), size_t{1} << 50),
     "a promise beyond what so few bytes can hold reserves nothing");
}

struct Elf {
  uint64_t entry = 0x1000040;
  uint32_t note_type = 18, note_desc = 8;
  std::vector<Elf64_Phdr> programs;
  Elf() {
    programs.push_back(load(0x1000, 0x2000, 0x1000000, 0x2000));
    programs.push_back(load(0x3000, 0x800, 0x1005000, 0x10000));
  }
  static Elf64_Phdr load(uint64_t offset, uint64_t size, uint64_t address, uint64_t memory) {
    Elf64_Phdr program{};
    program.p_type = PT_LOAD;
    program.p_offset = offset;
    program.p_filesz = size;
    program.p_paddr = address;
    program.p_vaddr = 0;
    program.p_memsz = memory;
    return program;
  }
  Data file() const {
    Data out(0x4000, 0x77);
    Elf64_Ehdr header{};
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_phoff = 64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    std::vector<Elf64_Phdr> all = programs;
    Elf64_Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = 0x800;
    // Another note before it, of an odd length.
    const Data notes = Bytes()
                           .u32(4)
                           .u32(3)
                           .u32(6)
                           .text("Xen")
                           .u8(0)
                           .text("abc")
                           .u8(0)
                           .u32(4)
                           .u32(note_desc)
                           .u32(note_type)
                           .text("Xen")
                           .u8(0)
                           .u64(entry)
                           .data();
    note.p_filesz = notes.size();
    all.push_back(note);
    header.e_phnum = static_cast<uint16_t>(all.size());
    memcpy(out.data(), &header, sizeof(header));
    memcpy(out.data() + 64, all.data(), all.size() * sizeof(Elf64_Phdr));
    memcpy(out.data() + 0x800, notes.data(), notes.size());
    return out;
  }
};

std::string refusal(const Data& file) {
  Result<Kernel> kernel = parse_kernel(file.data(), file.size());
  return kernel ? "" : kernel.error().why;
}

void elf() {
  const Data file = Elf().file();
  Result<Kernel> kernel = parse_kernel(file.data(), file.size());
  ok(kernel.ok() && kernel->entry == 0x1000040 && kernel->segments.size() == 2 &&
         kernel->begin() == 0x1000000 && kernel->end() == 0x1015000,
     "segments go by physical address, the entry point is the note's");
  Elf four;
  four.note_desc = 4;
  ok(refusal(four.file()).empty(), "the note may have four bytes");
  Elf none;
  none.note_type = 17;
  ok(refusal(none.file()).find("CONFIG_PVH") != std::string::npos,
     "no PVH note: refused, with cure");

  const auto changed = [](auto change) {
    Elf elf;
    change(elf);
    return refusal(elf.file());
  };
  ok(!changed([](Elf& e) { e.programs[0].p_filesz = 0x8000; }).empty() &&
         !changed([](Elf& e) { e.programs[0].p_offset = ~uint64_t{0} - 5; }).empty(),
     "a segment outside the file is refused");
  ok(!changed([](Elf& e) { e.programs[0].p_memsz = 1; }).empty(), "and more in file than memory");
  ok(!changed([](Elf& e) { e.programs[1].p_paddr = 0x1001fff; }).empty(),
     "and segments that overlap");
  ok(!changed([](Elf& e) { e.programs[0].p_paddr = 0x9f000; }).empty() &&
         !changed([](Elf& e) { e.programs[0].p_paddr = kLoadEnd - 0x1000; }).empty() &&
         !changed([](Elf& e) { e.programs[1].p_memsz = ~uint64_t{0}; }).empty(),
     "and segments below 1 MiB, beyond 1 GiB, or that wrap");
  ok(!changed([](Elf& e) { e.entry = 0x1002000; }).empty() &&
         !changed([](Elf& e) { e.entry = 0x1005900; }).empty(),
     "and an entry point in no segment, or in what the file lacks");
  ok(!changed([](Elf& e) { e.programs.clear(); }).empty(), "and a kernel of nothing");
}

Data bzimage(const Data& payload, uint32_t content) {
  Data out(0x400 + payload.size() + 4);
  out[0x1f1] = 1;
  const auto put = [&](size_t at, auto value) { memcpy(out.data() + at, &value, sizeof(value)); };
  put(0x1fe, uint16_t{0xaa55});
  put(0x202, uint32_t{0x53726448});
  put(0x206, uint16_t{0x20f});
  put(0x248, uint32_t{0});
  put(0x24c, static_cast<uint32_t>(payload.size() + 4));
  memcpy(out.data() + 0x400, payload.data(), payload.size());
  put(0x400 + payload.size(), content);
  return out;
}

void bz_image() {
  const Data vmlinux = Elf().file();
  const auto size = static_cast<uint32_t>(vmlinux.size());
  Result<Data> found = unpack_kernel(bzimage(legacy(vmlinux), size));
  ok(found.ok() && *found == vmlinux, "a bzImage gives its vmlinux");
  Result<Data> plain = unpack_kernel(vmlinux);
  ok(plain.ok() && *plain == vmlinux, "what is no bzImage comes back as it is");
  Result<Data> wrong = unpack_kernel(bzimage(legacy(vmlinux), size + 1));
  ok(!wrong && wrong.error().why.find("damaged") == 0, "a payload of another length is refused");
  Data zstd = legacy(vmlinux);
  memcpy(zstd.data(), "\x28\xb5\x2f\xfd", 4);
  Result<Data> other = unpack_kernel(bzimage(zstd, size));
  ok(!other && other.error().why.find("Zstandard") != std::string::npos,
     "another compression is refused by name");
  Data cut = bzimage(legacy(vmlinux), size);
  cut.resize(cut.size() - 1);
  ok(!unpack_kernel(cut), "a file cut short is refused");
}

// Whatever is done to a file, it is refused or stays within bounds: the sanitizers tell.
void mutations() {
  std::mt19937 random(1);
  const Data good = bzimage(legacy(Elf().file()), 0x4000);
  int accepted = 0;
  for (int i = 0; i < 20000; i++) {
    Data file = good;
    for (unsigned n = random() % 4 + 1; n > 0; n--) {
      // Headers more often than content.
      const size_t at = random() % 2 != 0 ? 0x400 + random() % 300 : random() % file.size();
      file[at] =
          static_cast<uint8_t>(random() % 3 == 0 ? random() : file[at] ^ (1u << random() % 8));
    }
    if (random() % 8 == 0) file.resize(random() % file.size());
    Result<Data> vmlinux = unpack_kernel(file);
    if (!vmlinux) continue;
    Result<Kernel> kernel = parse_kernel(vmlinux->data(), vmlinux->size());
    if (!kernel) continue;
    accepted++;
    for (const KernelSegment& segment : kernel->segments)
      if (segment.offset + segment.size > vmlinux->size() || segment.address < kLoadStart ||
          segment.address + segment.memory > kLoadEnd)
        ok(false, "a bound was forgotten");
  }
  ok(accepted > 0, "20000 damaged kernels: each refused or within bounds");
}

UniqueFd memory_file() { return UniqueFd(::memfd_create("image", MFD_CLOEXEC)); }

UniqueFd image_file() {
  UniqueFd file = memory_file();
  Status written = BootImage::write(file.get(), bzimage(legacy(Elf().file()), 0x4000));
  ok(written.ok(), "a boot image is written");
  return file;
}

bool refused(UniqueFd file) {
  Result<BootImage> image = BootImage::open(std::move(file));
  return !image && image.error().why.find("make it again") != std::string::npos;
}

void boot_image() {
  UniqueFd file = image_file();
  Result<BootImage> image = BootImage::open(UniqueFd(::dup(file.get())));
  ok(image.ok() && image->entry() == 0x1000040 && image->memory_end() == 0x1015000,
     "it opens, with entry and end");
  Result<GuestMemory> memory = GuestMemory::create(kMinMemory);
  ok(image->map(*memory).ok() && memory->read<uint8_t>(0x1000000) == 0x77 &&
         memory->read<uint8_t>(0x1005000 + 0x7ff) == 0x77 &&
         memory->read<uint8_t>(0x1005000 + 0x800) == 0 && memory->read<uint8_t>(0x1002000) == 0,
     "laid over memory, segments are in place and the rest is zero");
  ok(memory->write(0x1000000, uint8_t{1}), "a guest writes to it");
  Result<GuestMemory> second = GuestMemory::create(kMinMemory);
  ok(image->map(*second).ok() && second->read<uint8_t>(0x1000000) == 0x77,
     "and another guest does not see that");

  ok(refused(memory_file()), "an empty file is no boot image");
  for (const off_t at : {0, 9, 20, 30, 45, 50}) {
    UniqueFd bad = image_file();
    uint8_t byte = 0;
    [[maybe_unused]] ssize_t n = ::pread(bad.get(), &byte, 1, at);
    byte ^= 0x40;
    n = ::pwrite(bad.get(), &byte, 1, at);
    ok(refused(std::move(bad)), "a header with a bit turned over is refused");
  }
  UniqueFd cut = image_file();
  ok(::ftruncate(cut.get(), 0x3000) == 0 && refused(std::move(cut)), "so is a file cut short");
}

void start_info() {
  UniqueFd file = image_file();
  Result<BootImage> image = BootImage::open(std::move(file));
  UniqueFd ramdisk = memory_file();
  ok(::ftruncate(ramdisk.get(), 5000) == 0 && ::pwrite(ramdisk.get(), "initrd", 6, 0) == 6,
     "an initramfs");
  Result<GuestMemory> memory = GuestMemory::create(kLowLimit + (uint64_t{1} << 30));
  const Initrd initrd{ramdisk.get(), 5000};
  Status placed = place_boot(*memory, *image, initrd, "quiet", 0xe0000);
  const uint64_t at = kLowLimit - 0x2000;
  ok(placed.ok() && memory->read<uint32_t>(kStartInfo) == 0x336ec578u &&
         memory->read<uint64_t>(kModuleList) == at &&
         memory->read<uint64_t>(kModuleList + 8) == uint64_t{5000} &&
         memcmp(memory->span(at, 6)->data, "initrd", 6) == 0,
     "the initramfs lies at the top of low memory");
  is(std::string(reinterpret_cast<char*>(memory->span(kCommandLine, 6)->data)), "quiet",
     "the command line is there");
  ok(memory->read<uint32_t>(kStartInfo + 48) == 4u &&
         memory->read<uint64_t>(kMemoryMap + 3 * 24) == kHighStart &&
         memory->read<uint64_t>(kMemoryMap + 3 * 24 + 8) == uint64_t{1} << 30,
     "the memory map goes on at 4 GiB");

  Result<GuestMemory> small = GuestMemory::create(kMinMemory);
  Status too_much = place_boot(*small, *image, {ramdisk.get(), 40u << 20}, "", 0);
  ok(!too_much && too_much.error().why.find("MiB of memory") != std::string::npos,
     "too little memory is refused with how much is needed");
  ok(!place_boot(*memory, *image, {ramdisk.get(), ~uint64_t{0}}, "", 0) &&
         !place_boot(*memory, *image, {}, std::string(2048, 'x'), 0) &&
         !place_boot(*memory, *image, {}, std::string("a\0b", 3), 0),
     "so are sums that wrap and command lines that are too long or hold a NUL");
}

bool sums_to_zero(const uint8_t* data, size_t size) {
  return (std::accumulate(data, data + size, 0u) & 0xff) == 0;
}

void acpi() {
  Result<GuestMemory> memory = GuestMemory::create(kMinMemory);
  AcpiTables tables;
  tables.vcpus = kMaxVcpus;
  tables.serial = true;
  for (unsigned i = 0; i < kMaxVirtio; i++)
    tables.virtio.push_back({kVirtioBase + i * kVirtioStep, kVirtioStep, kVirtioFirstGsi + i});
  Result<uint64_t> rsdp = write_acpi(*memory, tables);
  ok(rsdp.ok() && *rsdp == kAcpiStart, "tables of the largest machine fit");
  const uint8_t* root = memory->span(kAcpiStart, 36)->data;
  ok(memcmp(root, "RSD PTR ", 8) == 0 && sums_to_zero(root, 20) && sums_to_zero(root, 36),
     "the RSDP has both checksums");
  const auto table = [&](uint64_t at) {
    const auto size = *memory->read<uint32_t>(at + 4);
    const uint8_t* bytes = memory->span(at, size)->data;
    ok(sums_to_zero(bytes, size),
       std::string(reinterpret_cast<const char*>(bytes), 4) + " adds up");
    return Data(bytes, bytes + size);
  };
  const Data xsdt = table(load_le<uint64_t>(root + 24));
  const Data fadt = table(load_le<uint64_t>(xsdt.data() + 36));
  const Data madt = table(load_le<uint64_t>(xsdt.data() + 44));
  const Data dsdt = table(load_le<uint64_t>(fadt.data() + 140));
  is(fadt.size(), size_t{276}, "the FADT has the length of revision 6");
  is(madt.size(), 44 + 12 + 8 * size_t{kMaxVcpus}, "the MADT has all processors");
  ok(text(dsdt).find("LNRO0005") != std::string::npos &&
         text(dsdt).find("_S5_") != std::string::npos,
     "the DSDT has devices and how to power off");

  is(text(aml::eisa_id("PNP0501")), std::string("\x0c\x41\xd0\x05\x01"), "an EISA id");
  const aml::Code small = aml::scope("ABCD", {Data(58, 1)});
  const aml::Code large = aml::scope("ABCD", {Data(59, 1)});
  const aml::Code huge = aml::scope("ABCD", {Data(4095, 1)});
  ok(small[1] == 63 && large[1] == 0x41 && large[2] == 4 && huge[1] == 0x86 && huge[2] == 0 &&
         huge[3] == 1,
     "a length is one byte up to 63, then two, beyond 4095 three, and counts itself");
}

}  // namespace

int main() {
  lz4();
  elf();
  bz_image();
  mutations();
  boot_image();
  start_info();
  acpi();
  return tap::done();
}
