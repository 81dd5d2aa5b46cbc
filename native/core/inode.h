// Owner, mode, extended attributes and times of files in image layers: set as an archive entry
// says, or copied from a lower layer. Order matters everywhere: chown takes setuid and
// security.capability away.
#pragma once

#include <sys/stat.h>
#include <time.h>

#include <cstdint>
#include <string>

#include "base/result.h"

namespace isopod::core {

struct UnpackEntry;

inline int64_t nanoseconds(const struct timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

// Owner, mode and attributes of an open file or directory, not its times.
Status set_inode(int fd, const UnpackEntry& entry);
// All of a node that cannot be opened (symlink, device, FIFO), with its times.
Status set_node(int dir, const std::string& name, const UnpackEntry& entry);
// Access and modification time, in nanoseconds since 1970.
Status set_times(int fd, int64_t time, const std::string& path);

// Owner, mode and attributes (but trusted.*) of `from`, whose status is `st`.
Status copy_inode(int from, const struct stat& st, int to);
// A whole non-directory under the same name in `to`. Returns the bytes of its content.
Result<uint64_t> copy_node(int from, const std::string& name, const struct stat& st, int to);

}  // namespace isopod::core
