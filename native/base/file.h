// Small files of procfs, sysfs and cgroupfs.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace isopod {

inline Result<std::string> read_file(int dir, const std::string& path) {
  UniqueFd fd(openat(dir, path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failure(errno, "open", path);
  std::string text;
  char buffer[4096];
  for (;;) {
    ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failure(errno, "read", path);
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

inline Status write_file(int dir, const std::string& path, const std::string& text) {
  UniqueFd fd(openat(dir, path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return failure(errno, "open", path);
  if (write(fd.get(), text.data(), text.size()) < 0) return failure(errno, "write", path);
  return Done{};
}

}  // namespace isopod
