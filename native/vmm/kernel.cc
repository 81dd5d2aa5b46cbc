#include "vmm/kernel.h"

#include <elf.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "vmm/layout.h"
#include "vmm/little_endian.h"
#include "vmm/lz4.h"

namespace isopod::vmm {

namespace {

Error refuse(std::string why) {
  return Error{0, "kernel", "", "", std::move(why), "INVALID_ARGUMENT"};
}

// --- bzImage ---

constexpr size_t kSetupSectors = 0x1f1, kBootFlag = 0x1fe, kHeaderMagic = 0x202, kVersion = 0x206,
                 kPayloadOffset = 0x248, kPayloadLength = 0x24c, kHeaderEnd = 0x250;
constexpr uint32_t kHdrS = 0x53726448;

struct Compression {
  const char* name;
  std::vector<uint8_t> magic;
};

std::string compression(const uint8_t* data, size_t size) {
  static const Compression known[] = {
      {"gzip", {0x1f, 0x8b}},         {"bzip2", {'B', 'Z', 'h'}},
      {"LZMA", {0x5d, 0, 0}},         {"XZ", {0xfd, '7', 'z', 'X', 'Z'}},
      {"LZO", {0x89, 'L', 'Z', 'O'}}, {"Zstandard", {0x28, 0xb5, 0x2f, 0xfd}}};
  for (const Compression& one : known)
    if (size >= one.magic.size() && std::equal(one.magic.begin(), one.magic.end(), data))
      return one.name;
  return "something unknown";
}

// --- ELF ---

constexpr char kXen[] = "Xen";
constexpr uint32_t kPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

// `size` bytes at `offset`, or nothing unless the file has them.
const uint8_t* within(const uint8_t* file, size_t size, uint64_t offset, uint64_t wanted) {
  return offset <= size && wanted <= size - offset ? file + offset : nullptr;
}

std::optional<uint64_t> pvh_entry(const uint8_t* note, size_t left) {
  const auto padded = [](uint64_t value) { return (value + 3) & ~uint64_t{3}; };
  while (left >= sizeof(Elf64_Nhdr)) {
    const auto header = load_le<Elf64_Nhdr>(note);
    const uint64_t name = padded(header.n_namesz), desc = padded(header.n_descsz);
    note += sizeof(header);
    left -= sizeof(header);
    if (name > left || desc > left - name) return std::nullopt;
    if (header.n_type == kPhys32Entry && header.n_namesz == sizeof(kXen) &&
        memcmp(note, kXen, sizeof(kXen)) == 0) {
      if (header.n_descsz == 8) return load_le<uint64_t>(note + name);
      if (header.n_descsz == 4) return load_le<uint32_t>(note + name);
    }
    note += name + desc;
    left -= name + desc;
  }
  return std::nullopt;
}

Status check_segments(Kernel& kernel) {
  if (kernel.segments.empty()) return refuse("damaged: it loads nothing");
  std::sort(kernel.segments.begin(), kernel.segments.end(),
            [](const auto& a, const auto& b) { return a.address < b.address; });
  uint64_t end = kLoadStart;
  for (const KernelSegment& segment : kernel.segments) {
    if (segment.address < end) return refuse("damaged: segments overlap or lie below 1 MiB");
    if (segment.address >= kLoadEnd || segment.memory > kLoadEnd - segment.address)
      return refuse("damaged: a segment lies beyond 1 GiB");
    end = segment.address + segment.memory;
  }
  return Done{};
}

}  // namespace

Result<std::vector<uint8_t>> unpack_kernel(std::vector<uint8_t> file) {
  if (file.size() < kHeaderEnd || load_le<uint16_t>(&file[kBootFlag]) != 0xaa55 ||
      load_le<uint32_t>(&file[kHeaderMagic]) != kHdrS)
    return file;
  if (load_le<uint16_t>(&file[kVersion]) < 0x208)
    return refuse("boot protocol older than 2.08: no payload inside");
  const size_t sectors = file[kSetupSectors] != 0 ? file[kSetupSectors] : 4;
  const uint64_t start = (sectors + 1) * 512 + load_le<uint32_t>(&file[kPayloadOffset]);
  const size_t length = load_le<uint32_t>(&file[kPayloadLength]);
  const uint8_t* payload = within(file.data(), file.size(), start, length);
  // The payload's last four bytes are the size of what was compressed.
  if (payload == nullptr || length < 8) return refuse("damaged: the file ends within its payload");
  if (load_le<uint32_t>(payload) == kLz4LegacyMagic) {
    const size_t content = load_le<uint32_t>(payload + length - 4);
    auto vmlinux = lz4_legacy(payload, length - 4, content);
    if (!vmlinux) return refuse("damaged: its LZ4 payload does not inflate");
    return std::move(*vmlinux);
  }
  if (memcmp(payload, ELFMAG, SELFMAG) == 0)
    return std::vector<uint8_t>(payload, payload + length - 4);
  return refuse("compressed with " + compression(payload, length) +
                ", where LZ4 is understood: give the uncompressed vmlinux");
}

Result<Kernel> parse_kernel(const uint8_t* file, size_t size) {
  if (size < sizeof(Elf64_Ehdr) || memcmp(file, ELFMAG, SELFMAG) != 0)
    return refuse("neither a bzImage nor an ELF file");
  const auto header = load_le<Elf64_Ehdr>(file);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64)
    return refuse("not a 64-bit x86 ELF file");
  const uint64_t table = uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  const uint8_t* programs = within(file, size, header.e_phoff, table);
  if (header.e_phentsize != sizeof(Elf64_Phdr) || programs == nullptr)
    return refuse("damaged: the program headers lie outside the file");

  Kernel kernel{};
  std::optional<uint64_t> entry;
  for (size_t i = 0; i < header.e_phnum; i++) {
    const auto program = load_le<Elf64_Phdr>(programs + i * sizeof(Elf64_Phdr));
    if (program.p_type != PT_LOAD && program.p_type != PT_NOTE) continue;
    const uint8_t* content = within(file, size, program.p_offset, program.p_filesz);
    if (content == nullptr) return refuse("damaged: a segment lies outside the file");
    if (program.p_type == PT_NOTE) {
      if (!entry) entry = pvh_entry(content, program.p_filesz);
      continue;
    }
    if (program.p_filesz > program.p_memsz)
      return refuse("damaged: a segment has more in the file than in memory");
    // By physical address: the per-CPU segment's virtual one is 0.
    if (program.p_memsz > 0)
      kernel.segments.push_back(
          {program.p_offset, program.p_filesz, program.p_paddr, program.p_memsz});
  }
  if (Status good = check_segments(kernel); !good) return good.error();
  if (!entry)
    return refuse("no PVH entry point: use a kernel built with CONFIG_PVH, as Debian's are");
  const bool loaded = std::any_of(
      kernel.segments.begin(), kernel.segments.end(), [&](const KernelSegment& segment) {
        return *entry >= segment.address && *entry - segment.address < segment.size;
      });
  if (!loaded) return refuse("damaged: its PVH entry point lies in no segment");
  kernel.entry = *entry;
  return kernel;
}

}  // namespace isopod::vmm
