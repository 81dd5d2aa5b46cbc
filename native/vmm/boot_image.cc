#include "vmm/boot_image.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "vmm/kernel.h"
#include "vmm/layout.h"

namespace isopod::vmm {

namespace {

constexpr char kMagic[8] = {'i', 's', 'o', 'p', 'o', 'd', 'B', 'I'};
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t entry;
  uint64_t base;  // page aligned
  uint64_t size;  // of what follows the header's page; page aligned
  uint64_t memory_end;
  uint64_t checksum;  // of all before it
};

// FNV-1a: against a file cut or written over, not against a forger.
uint64_t checksum(const Header& header) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < offsetof(Header, checksum); i++) hash = (hash ^ bytes[i]) * 0x100000001b3;
  return hash;
}

uint64_t page_floor(uint64_t value) { return value & ~(kPageSize - 1); }
uint64_t page_ceil(uint64_t value) { return page_floor(value + kPageSize - 1); }

Status write_all(int fd, const void* data, size_t size, uint64_t offset) {
  const auto* from = static_cast<const uint8_t*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(fd, from, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure(errno, "write boot image", "");
    from += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return Done{};
}

Error damaged(const char* why) {
  return Error{0,
               "boot image",
               "",
               "",
               std::string(why) + ": make it again from the kernel",
               "INVALID_ARGUMENT"};
}

bool sane(const Header& header, uint64_t file_size) {
  return header.size > 0 && header.size % kPageSize == 0 && header.base % kPageSize == 0 &&
         header.base >= kLoadStart && header.base < kLoadEnd &&
         header.size <= kLoadEnd - header.base && header.entry >= header.base &&
         header.entry - header.base < header.size && header.memory_end > header.base &&
         header.memory_end <= kLoadEnd && file_size == kPageSize + header.size;
}

}  // namespace

Status BootImage::write(int to, std::vector<uint8_t> kernel_file) {
  Result<std::vector<uint8_t>> vmlinux = unpack_kernel(std::move(kernel_file));
  if (!vmlinux) return vmlinux.error();
  Result<Kernel> kernel = parse_kernel(vmlinux->data(), vmlinux->size());
  if (!kernel) return kernel.error();

  Header header{};
  memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.entry = kernel->entry;
  header.base = page_floor(kernel->begin());
  header.memory_end = kernel->end();
  for (const KernelSegment& segment : kernel->segments)
    if (segment.size > 0) header.size = page_ceil(segment.address + segment.size - header.base);
  header.checksum = checksum(header);

  // A hole reads as zero, which is what lies between segments.
  if (::ftruncate(to, static_cast<off_t>(kPageSize + header.size)) < 0)
    return failure(errno, "write boot image", "");
  if (Status done = write_all(to, &header, sizeof(header), 0); !done) return done;
  for (const KernelSegment& segment : kernel->segments) {
    const uint64_t at = kPageSize + segment.address - header.base;
    if (Status done = write_all(to, vmlinux->data() + segment.offset, segment.size, at); !done)
      return done;
  }
  return Done{};
}

Result<BootImage> BootImage::open(UniqueFd file) {
  Header header{};
  struct stat status {};
  if (::fstat(file.get(), &status) < 0) return failure(errno, "boot image", "");
  const ssize_t n = ::pread(file.get(), &header, sizeof(header), 0);
  if (n < 0) return failure(errno, "boot image", "");
  if (static_cast<size_t>(n) < sizeof(header) || memcmp(header.magic, kMagic, sizeof(kMagic)) != 0)
    return damaged("not a boot image");
  if (header.version != kVersion) return damaged("of another version of isopod");
  if (header.checksum != checksum(header) || !sane(header, static_cast<uint64_t>(status.st_size)))
    return damaged("damaged");
  BootImage image;
  image.file_ = std::move(file);
  image.entry_ = header.entry;
  image.base_ = header.base;
  image.size_ = header.size;
  image.memory_end_ = header.memory_end;
  return image;
}

Status BootImage::map(const GuestMemory& memory) const {
  return map_file(memory, base_, file_.get(), kPageSize, size_);
}

Status map_file(const GuestMemory& memory, uint64_t address, int file, uint64_t offset,
                uint64_t size) {
  const std::optional<Span> span = memory.span(address, page_ceil(size));
  if (!span || address % kPageSize != 0) return failure(ENOMEM, "boot", "");
  void* at = ::mmap(span->data, span->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
                    static_cast<off_t>(offset));
  if (at == MAP_FAILED) return failure(errno, "boot", "");
  // As for the rest of guest memory.
  ::madvise(at, span->size, MADV_DONTDUMP);
  ::madvise(at, span->size, MADV_DONTFORK);
  return Done{};
}

}  // namespace isopod::vmm
