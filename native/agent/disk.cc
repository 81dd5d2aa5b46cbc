#include "agent/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#include <algorithm>
#include <memory>

#include "base/file.h"
#include "core/poller.h"

namespace isopod::agent {

namespace {

constexpr uint32_t kMaxWaitMs = 30'000;
constexpr int kRetryMs = 5;

std::string line_of(const std::string& path) {
  Result<std::string> text = read_file(AT_FDCWD, path);
  return text ? text->substr(0, text->find('\n')) : std::string();
}

bool look(const std::string& serial, Disk& disk) {
  const std::unique_ptr<DIR, int (*)(DIR*)> blocks(::opendir("/sys/block"), ::closedir);
  if (!blocks) return false;
  while (const dirent* entry = ::readdir(blocks.get())) {
    const std::string name = entry->d_name;
    if (name[0] == '.' || line_of("/sys/block/" + name + "/serial") != serial) continue;
    disk.path = "/dev/" + name;
    return ::sscanf(line_of("/sys/block/" + name + "/dev").c_str(), "%u:%u", &disk.major,
                    &disk.minor) == 2;
  }
  return false;
}

}  // namespace

Result<Disk> find_disk(const std::string& serial, uint32_t timeout_ms) {
  if (serial.empty()) return Error{0, "disk", {}, {}, "needs a serial", "INVALID_ARGUMENT"};
  const int64_t deadline = core::now_ms() + std::min(timeout_ms, kMaxWaitMs);
  Disk disk;
  for (;;) {
    if (look(serial, disk)) return disk;
    if (core::now_ms() >= deadline) return Error{ENODEV, "disk", serial, {}, {}, "NOT_FOUND"};
    ::poll(nullptr, 0, kRetryMs);
  }
}

}  // namespace isopod::agent
