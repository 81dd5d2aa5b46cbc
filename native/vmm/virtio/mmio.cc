#include "vmm/virtio/mmio.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <string>
#include <utility>

namespace isopod::vmm::virtio {

namespace {

enum Register : uint64_t {
  kMagic = 0x00,
  kVersion = 0x04,
  kDeviceId = 0x08,
  kVendorId = 0x0c,
  kDeviceFeatures = 0x10,
  kDeviceFeaturesSelect = 0x14,
  kDriverFeatures = 0x20,
  kDriverFeaturesSelect = 0x24,
  kQueueSelect = 0x30,
  kQueueSizeMax = 0x34,
  kQueueSize = 0x38,
  kQueueReady = 0x44,
  kQueueNotify = Transport::kNotifyOffset,
  kInterruptStatus = 0x60,
  kInterruptAck = 0x64,
  kStatus = 0x70,
  kQueueDescriptorsLow = 0x80,
  kQueueDescriptorsHigh = 0x84,
  kQueueAvailableLow = 0x90,
  kQueueAvailableHigh = 0x94,
  kQueueUsedLow = 0xa0,
  kQueueUsedHigh = 0xa4,
  kShmLengthLow = 0xb0,
  kShmLengthHigh = 0xb4,
  kShmBaseLow = 0xb8,
  kShmBaseHigh = 0xbc,
  kConfigGeneration = 0xfc,
  kConfig = 0x100,
};

constexpr uint32_t kMagicValue = 0x74726976;   // "virt"
constexpr uint32_t kVendorValue = 0x706f7369;  // "isop"

enum StatusBit : uint32_t {
  kAcknowledge = 1,
  kDriver = 2,
  kDriverOk = 4,
  kFeaturesOk = 8,
  kNeedsReset = 0x40,
  kFailed = 0x80,
};
constexpr uint32_t kAtDriver = kAcknowledge | kDriver;
constexpr uint32_t kAtFeatures = kAtDriver | kFeaturesOk;
constexpr uint32_t kAtRunning = kAtFeatures | kDriverOk;

constexpr uint32_t kRingInterrupt = 1;
constexpr uint32_t kConfigInterrupt = 2;

void pulse(int eventfd) {
  const uint64_t one = 1;
  // It fails when 2^64 - 2 pulses wait: the reader has enough to see then.
  [[maybe_unused]] const ssize_t n = ::write(eventfd, &one, sizeof(one));
}

uint64_t with_low(uint64_t value, uint32_t low) { return (value & ~uint64_t{UINT32_MAX}) | low; }
uint64_t with_high(uint64_t value, uint32_t high) {
  return (value & UINT32_MAX) | uint64_t{high} << 32;
}

uint32_t half(uint64_t value, uint32_t select) {
  if (select > 1) return 0;
  return static_cast<uint32_t>(value >> (32 * select));
}

}  // namespace

Transport::Transport(const GuestMemory& memory, Loop& loop, Device& device)
    : memory_(memory),
      loop_(loop),
      device_(device),
      maxima_(device.queue_sizes()),
      setups_(maxima_.size()),
      queues_(maxima_.size()) {}

Result<std::unique_ptr<Transport>> Transport::create(const GuestMemory& memory, Loop& loop,
                                                     Device& device) {
  std::unique_ptr<Transport> transport(new Transport(memory, loop, device));
  const auto make = [] { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); };
  transport->irq_ = make();
  bool made = bool{transport->irq_};
  for (size_t i = 0; made && i < transport->maxima_.size(); i++)
    made = bool{transport->notifiers_.emplace_back(make())};
  if (!made) return failure(errno, "eventfd", "virtio device " + std::to_string(device.id()));
  return transport;
}

Transport::~Transport() { stop(); }

std::vector<int> Transport::notifiers() const {
  std::vector<int> fds;
  for (const UniqueFd& fd : notifiers_) fds.push_back(fd.get());
  return fds;
}

std::function<void()> Transport::while_alive(std::function<void()> task) {
  return [alive = std::weak_ptr<void>(alive_), task = std::move(task)] {
    if (!alive.expired()) task();
  };
}

// --- Interrupts: the loop's thread speaks up, without the lock --------------------------------

void Transport::interrupt(uint32_t why) {
  interrupt_status_.fetch_or(why);
  pulse(irq_.get());
}

void Transport::ring() { interrupt(kRingInterrupt); }

void Transport::config() {
  generation_.fetch_add(1);
  interrupt(kConfigInterrupt);
}

void Transport::again(unsigned queue) { pulse(notifiers_[queue].get()); }

// The device is stopped by a task of its own: it is in the middle of something now. A reset that
// comes meanwhile is in the loop's queue before or after; either way stop() acts once, and nothing
// is started in between, since the driver is still waiting for that reset.
void Transport::broken() {
  status_.fetch_or(kNeedsReset);
  config();
  loop_.post(while_alive([this] { stop(); }));
}

// --- Registers ----------------------------------------------------------------------------------

void Transport::read(uint64_t offset, uint8_t* data, size_t size) {
  memset(data, 0, size);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (offset >= kConfig) return device_.read_config(offset - kConfig, data, size);
  if (size != 4 || offset % 4 != 0) return;
  const uint32_t value = read_register(offset);
  memcpy(data, &value, sizeof(value));
}

void Transport::write(uint64_t offset, const uint8_t* data, size_t size) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (offset >= kConfig) {
    const uint32_t status = status_.load();
    if ((status & kDriver) != 0 && (status & (kFailed | kNeedsReset)) == 0)
      device_.write_config(offset - kConfig, data, size);
    return;
  }
  if (size != 4 || offset % 4 != 0) return;
  uint32_t value;
  memcpy(&value, data, sizeof(value));
  write_register(offset, value);
}

uint32_t Transport::read_register(uint64_t offset) {
  const bool selected = queue_select_ < setups_.size();
  switch (offset) {
    case kMagic:
      return kMagicValue;
    case kVersion:
      return 2;
    case kDeviceId:
      return device_.id();
    case kVendorId:
      return kVendorValue;
    case kDeviceFeatures:
      return half(device_.features() | kFeatureVersion1, device_features_select_);
    case kQueueSizeMax:
      return selected ? maxima_[queue_select_] : 0;
    case kQueueReady:
      return selected && setups_[queue_select_].ready ? 1 : 0;
    case kInterruptStatus:
      return interrupt_status_.load();
    case kStatus:
      return status_.load();
    case kShmLengthLow:
    case kShmLengthHigh:
    case kShmBaseLow:
    case kShmBaseHigh:
      return UINT32_MAX;  // no such region
    case kConfigGeneration:
      return generation_.load();
    default:
      return 0;
  }
}

void Transport::write_register(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSelect:
      device_features_select_ = value;
      return;
    case kDriverFeaturesSelect:
      driver_features_select_ = value;
      return;
    case kDriverFeatures:
      if (status_.load() != kAtDriver) return;
      if (driver_features_select_ == 0) driver_features_ = with_low(driver_features_, value);
      if (driver_features_select_ == 1) driver_features_ = with_high(driver_features_, value);
      if (driver_features_select_ > 1 && value != 0) unknown_features_ = true;
      return;
    case kQueueSelect:
      queue_select_ = value;
      return;
    case kQueueNotify:
      return notify(value);
    case kInterruptAck:
      interrupt_status_.fetch_and(~value);
      return;
    case kStatus:
      return write_status(value);
    default:
      return write_queue(offset, value);
  }
}

// Values are kept as they were written, in full width, and judged at DRIVER_OK.
void Transport::write_queue(uint64_t offset, uint32_t value) {
  if (status_.load() != kAtFeatures || queue_select_ >= setups_.size()) return;
  QueueSetup& setup = setups_[queue_select_];
  switch (offset) {
    case kQueueSize:
      setup.size = value;
      return;
    case kQueueReady:
      setup.ready = (value & 1) != 0;
      return;
    case kQueueDescriptorsLow:
      setup.descriptors = with_low(setup.descriptors, value);
      return;
    case kQueueDescriptorsHigh:
      setup.descriptors = with_high(setup.descriptors, value);
      return;
    case kQueueAvailableLow:
      setup.available = with_low(setup.available, value);
      return;
    case kQueueAvailableHigh:
      setup.available = with_high(setup.available, value);
      return;
    case kQueueUsedLow:
      setup.used = with_low(setup.used, value);
      return;
    case kQueueUsedHigh:
      setup.used = with_high(setup.used, value);
      return;
    default:
      return;
  }
}

void Transport::notify(uint32_t queue) {
  if (status_.load() == kAtRunning && queue < notifiers_.size()) pulse(notifiers_[queue].get());
}

bool Transport::features_acceptable() const {
  const uint64_t offered = device_.features() | kFeatureVersion1;
  return !unknown_features_ && (driver_features_ & ~offered) == 0 &&
         (driver_features_ & kFeatureVersion1) != 0;
}

void Transport::write_status(uint32_t value) {
  if (value == 0) return reset();
  const uint32_t status = status_.load();
  // A driver sets bits beside those it read: ours is not its to set.
  value &= ~uint32_t{kNeedsReset};
  if ((value & kFailed) != 0) {
    status_.fetch_or(kFailed);
    return;
  }
  if (status == 0 && value == kAcknowledge) {
    status_.store(value);
  } else if (status == kAcknowledge && value == kAtDriver) {
    status_.store(value);
  } else if (status == kAtDriver && value == kAtFeatures) {
    // Not latched, as the driver will read: it asked for what was not offered (2.2.2).
    if (features_acceptable()) status_.store(value);
  } else if (status == kAtFeatures && value == kAtRunning) {
    if (!build_queues({})) {
      status_.fetch_or(kNeedsReset);
      return;
    }
    status_.store(value);
    loop_.post(while_alive([this] { start(); }));
  }
}

bool Transport::build_queues(const std::vector<QueuePosition>& positions) {
  for (size_t i = 0; i < setups_.size(); i++) {
    queues_[i].reset();
    if (!setups_[i].ready) continue;
    queues_[i] = Queue::create(memory_, setups_[i], maxima_[i], driver_features_,
                               i < positions.size() ? positions[i] : QueuePosition{});
    if (!queues_[i]) return false;
  }
  return true;
}

void Transport::reset() {
  if ((status_.load() & kDriverOk) != 0) {
    // Shared with the task: should the loop end without running it, it is dropped, which ends the
    // wait as well.
    auto stopped = std::make_shared<std::promise<void>>();
    std::future<void> waiting = stopped->get_future();
    loop_.post([this, stopped = std::move(stopped)] {
      stop();
      stopped->set_value();
    });
    waiting.wait();
  }
  for (auto& queue : queues_) queue.reset();
  std::fill(setups_.begin(), setups_.end(), QueueSetup{});
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  unknown_features_ = false;
  interrupt_status_.store(0);
  status_.store(0);
}

// --- The loop's thread
// ----------------------------------------------------------------------------

void Transport::start() {
  running_ = true;
  std::vector<Queue*> queues;
  for (auto& queue : queues_) queues.push_back(queue ? &*queue : nullptr);
  device_.activate(driver_features_, std::move(queues), this);
  for (unsigned i = 0; i < notifiers_.size(); i++) {
    if (!queues_[i]) continue;
    const int fd = notifiers_[i].get();
    const bool watched = loop_.watch(fd, EPOLLIN, [this, fd, i](uint32_t) {
      uint64_t count;
      if (::read(fd, &count, sizeof(count)) < 0) return;
      if ((status_.load() & kNeedsReset) == 0) device_.notify(i);
    });
    if (!watched) return broken();
    // A notification may have come before anybody looked.
    if ((status_.load() & kNeedsReset) == 0) device_.notify(i);
  }
}

void Transport::stop() {
  if (!running_) return;
  running_ = false;
  for (const UniqueFd& fd : notifiers_) loop_.unwatch(fd.get());
  device_.reset();
}

}  // namespace isopod::vmm::virtio
