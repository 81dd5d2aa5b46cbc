#include "fs/inodes.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <tuple>
#include <utility>

namespace isopod::fs {

int stat_of(int fd, struct statx& out) {
  return statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_BASIC_STATS | STATX_MNT_ID, &out) < 0
             ? errno
             : 0;
}

Inodes::Inodes(UniqueFd root, size_t limit, std::string exclusive)
    : limit_(limit), exclusive_(std::move(exclusive)) {
  auto inode = std::make_shared<Inode>();
  inode->id = FUSE_ROOT_ID;
  struct statx stat {};
  if (stat_of(root.get(), stat) == 0) inode->mount = stat.stx_mnt_id;
  inode->fd = std::move(root);
  inode->type = S_IFDIR;
  inode->root = true;
  root_ = std::move(inode);
}

InodeRef Inodes::find(uint64_t id) const {
  if (id == FUSE_ROOT_ID) return root_;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.inode;
}

InodeRef Inodes::remember(const Inode& parent, const char* name, UniqueFd fd,
                          const struct statx& stat) {
  const uint64_t device = uint64_t{stat.stx_dev_major} << 32 | stat.stx_dev_minor;
  const Key key{device, stat.stx_ino, stat.stx_mnt_id};
  std::lock_guard<std::mutex> lock(mutex_);
  if (const auto known = ids_.find(key); known != ids_.end()) {
    Entry& entry = entries_.at(known->second);
    entry.told++;
    return entry.inode;
  }
  if (entries_.size() >= limit_) return nullptr;
  auto inode = std::make_shared<Inode>();
  inode->id = next_++;
  inode->fd = std::move(fd);
  inode->type = stat.stx_mode & S_IFMT;
  inode->mount = stat.stx_mnt_id;
  inode->exclusive = parent.exclusive || (parent.root && !exclusive_.empty() && exclusive_ == name);
  ids_[key] = inode->id;
  entries_[inode->id] = Entry{inode, key, 1};
  return inode;
}

void Inodes::forget(uint64_t id, uint64_t count) {
  InodeRef last;  // closed after the lock
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  // More than it was told: the guest lies, and loses nobody's inode but its own.
  entry.told -= std::min(entry.told, count);
  if (entry.told > 0) return;
  last = std::move(entry.inode);
  ids_.erase(entry.key);
  entries_.erase(found);
}

void Inodes::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  entries_.clear();
  ids_.clear();
}

size_t Inodes::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return entries_.size();
}

}  // namespace isopod::fs
