// What a snapshot keeps of a transport. It comes back from a file, so it is as hostile as a driver.
#include <cstring>

#include "vmm/virtio/mmio.h"

namespace isopod::vmm::virtio {

namespace {

constexpr uint32_t kStateMagic = 0x316d6d76;  // "vmm1"
constexpr uint32_t kNeedsReset = 0x40;
constexpr uint32_t kFailed = 0x80;
constexpr uint32_t kAtFeatures = 0xb;
constexpr uint32_t kAtRunning = 0xf;

struct StateHeader {
  uint32_t magic;
  uint32_t device;
  uint32_t status;
  uint32_t interrupt_status;
  uint32_t generation;
  uint32_t device_features_select;
  uint32_t driver_features_select;
  uint32_t queue_select;
  uint64_t driver_features;
  uint32_t unknown_features;
  uint32_t queues;
};

struct QueueState {
  uint64_t descriptors;
  uint64_t available;
  uint64_t used;
  uint32_t size;
  uint32_t ready;
  uint16_t next_available;
  uint16_t next_used;
  uint32_t zero;
};

template <typename T>
void put(std::vector<uint8_t>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}

template <typename T>
bool take(const std::vector<uint8_t>& in, size_t& at, T& value) {
  if (in.size() - at < sizeof(value)) return false;
  memcpy(&value, in.data() + at, sizeof(value));
  at += sizeof(value);
  return true;
}

bool is_status(uint32_t status) {
  switch (status & ~(kNeedsReset | kFailed)) {
    case 0:
    case 1:
    case 3:
    case kAtFeatures:
    case kAtRunning:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::vector<uint8_t> Transport::save() {
  if (running_) device_.drain();
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<uint8_t> out;
  put(out, StateHeader{kStateMagic, device_.id(), status_.load(), interrupt_status_.load(),
                       generation_.load(), device_features_select_, driver_features_select_,
                       queue_select_, driver_features_, unknown_features_ ? 1U : 0U,
                       static_cast<uint32_t>(setups_.size())});
  for (size_t i = 0; i < setups_.size(); i++) {
    const QueueSetup& setup = setups_[i];
    const QueuePosition position = queues_[i] ? queues_[i]->position() : QueuePosition{};
    put(out, QueueState{setup.descriptors, setup.available, setup.used, setup.size,
                        setup.ready ? 1U : 0U, position.next_available, position.next_used, 0});
  }
  const std::vector<uint8_t> device = device_.save();
  out.insert(out.end(), device.begin(), device.end());
  return out;
}

bool Transport::load(const std::vector<uint8_t>& state) {
  size_t at = 0;
  StateHeader header;
  if (!take(state, at, header) || header.magic != kStateMagic || header.device != device_.id() ||
      header.queues != setups_.size() || !is_status(header.status))
    return false;
  std::vector<QueueSetup> setups;
  std::vector<QueuePosition> positions;
  for (size_t i = 0; i < header.queues; i++) {
    QueueState queue;
    if (!take(state, at, queue)) return false;
    setups.push_back(
        {queue.size, queue.ready != 0, queue.descriptors, queue.available, queue.used});
    positions.push_back({queue.next_available, queue.next_used});
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  driver_features_ = header.driver_features;
  unknown_features_ = header.unknown_features != 0;
  setups_ = std::move(setups);
  const uint32_t step = header.status & ~(kNeedsReset | kFailed);
  const bool run = step == kAtRunning && (header.status & kNeedsReset) == 0;
  if ((step == kAtFeatures || step == kAtRunning) && !features_acceptable()) return false;
  if (!device_.load({state.begin() + static_cast<ptrdiff_t>(at), state.end()})) return false;
  if (run && !build_queues(positions)) return false;
  device_features_select_ = header.device_features_select;
  driver_features_select_ = header.driver_features_select;
  queue_select_ = header.queue_select;
  generation_.store(header.generation);
  interrupt_status_.store(header.interrupt_status & 3);
  status_.store(header.status);
  if (run) {
    start();
    ring();
  }
  return true;
}

}  // namespace isopod::vmm::virtio
