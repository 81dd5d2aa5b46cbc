// Files for devices, in memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/fd.h"

namespace isopod::vmm::virtio::test {

inline UniqueFd memory_file(const std::string& contents) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  if (!fd ||
      ::write(fd.get(), contents.data(), contents.size()) != static_cast<ssize_t>(contents.size()))
    abort();
  return fd;
}

inline std::string contents_of(int fd, off_t offset, size_t size) {
  std::string text(size, '\0');
  const ssize_t n = ::pread(fd, text.data(), size, offset);
  text.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return text;
}

}  // namespace isopod::vmm::virtio::test
