// The guest's open files: numbers that it holds, descriptors that we hold. A number is never used
// again for another file, so a stale one is EBADF and not somebody's data.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace isopod::vmm::virtio {

class FsHandles {
 public:
  // A worker that is in a file keeps it open beyond its RELEASE.
  using File = std::shared_ptr<UniqueFd>;

  explicit FsHandles(size_t limit) : limit_(limit) {}

  // A place for a file that is about to be opened. False: all are taken.
  [[nodiscard]] bool reserve() {
    if (open_ + reserved_ >= limit_) return false;
    reserved_++;
    return true;
  }
  void unreserve() { reserved_--; }
  // Into the place that was reserved.
  uint64_t open(UniqueFd fd) {
    reserved_--;
    open_++;
    if (free_.empty()) {
      free_.push_back(static_cast<uint32_t>(slots_.size()));
      slots_.emplace_back();
    }
    const uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.file = std::make_shared<UniqueFd>(std::move(fd));
    return uint64_t{++slot.generation} << 32 | index;
  }
  // Null: no such handle.
  File find(uint64_t handle) const {
    const uint64_t index = handle & UINT32_MAX;
    if (index >= slots_.size() || slots_[index].generation != handle >> 32) return nullptr;
    return slots_[index].file;
  }
  File close(uint64_t handle) {
    File file = find(handle);
    if (!file) return nullptr;
    const auto index = static_cast<uint32_t>(handle);
    slots_[index].file.reset();
    free_.push_back(index);
    open_--;
    return file;
  }
  void clear() {
    free_.clear();
    for (size_t i = 0; i < slots_.size(); i++) {
      slots_[i].file.reset();
      free_.push_back(static_cast<uint32_t>(i));
    }
    open_ = reserved_ = 0;
  }
  size_t open_files() const { return open_; }

 private:
  struct Slot {
    File file;
    uint32_t generation = 0;
  };
  const size_t limit_;
  size_t open_ = 0;
  size_t reserved_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace isopod::vmm::virtio
