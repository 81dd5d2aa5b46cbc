// What the guest knows: nodeid -> an O_PATH descriptor, with the number of times it was told of it.
//
// The descriptor *is* the file: names are used once, at LOOKUP, below the parent's descriptor and
// without following links; whatever anybody renames later, a nodeid means what it meant. An inode
// is the same inode by device, number and mount: the same file seen through two mounts (one
// read-only) is two.
#pragma once

#include <linux/fuse.h>
#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/fd.h"

struct statx;

namespace isopod::fs {

struct Inode {
  uint64_t id = 0;
  UniqueFd fd;        // O_PATH
  uint32_t type = 0;  // S_IFMT bits
  uint64_t mount = 0;
  // Changed by the guest alone (a container's root file system): cached for long, devices allowed.
  bool exclusive = false;
  bool root = false;
};

using InodeRef = std::shared_ptr<const Inode>;

class Inodes {
 public:
  // `limit`: how many descriptors the guest may make us hold. `exclusive`: what lies below this
  // directory of the root is the guest's alone; "" for none.
  Inodes(UniqueFd root, size_t limit, std::string exclusive);

  InodeRef find(uint64_t id) const;
  // The inode behind `fd` (O_PATH), told to the guest once more. Empty: the limit is reached.
  InodeRef remember(const Inode& parent, const char* name, UniqueFd fd, const struct statx& stat);
  void forget(uint64_t id, uint64_t count);
  // A new session: only the root is left.
  void clear();
  size_t size() const;

 private:
  struct Key {
    uint64_t device, number, mount;
    bool operator<(const Key& other) const {
      return std::tie(device, number, mount) < std::tie(other.device, other.number, other.mount);
    }
  };
  struct Entry {
    InodeRef inode;
    Key key;
    uint64_t told = 0;
  };

  mutable std::mutex mutex_;
  InodeRef root_;
  const size_t limit_;
  const std::string exclusive_;
  std::unordered_map<uint64_t, Entry> entries_;
  std::map<Key, uint64_t> ids_;
  uint64_t next_ = FUSE_ROOT_ID + 1;  // never used twice: a late FORGET must not hit another
};

// All that a reply needs and STATX_MNT_ID. 0 or an errno.
int stat_of(int fd, struct statx& out);

}  // namespace isopod::fs
