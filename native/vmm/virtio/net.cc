#include "vmm/virtio/net.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "vmm/virtio/config.h"
#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

namespace {

constexpr unsigned kBudget = 128;  // frames before the others have their turn
constexpr size_t kVlan = 4;
constexpr uint64_t bit(unsigned feature) { return uint64_t{1} << feature; }

}  // namespace

Net::Net(Loop& loop, NetOptions options)
    : loop_(loop),
      tap_(std::move(options.tap)),
      receive_gate_(loop, options.receive, [this] { receive(); }),
      transmit_gate_(loop, options.transmit, [this] { transmit(); }),
      held_(kQueueSize),
      frame_(sizeof(NetHeader) + kMaxFrame + kVlan) {
  std::copy(options.mac.begin(), options.mac.end(), config_.mac);
  config_.max_virtqueue_pairs = 1;
  config_.mtu = options.mtu;
}

Result<std::unique_ptr<Net>> Net::create(Loop& loop, NetOptions options) {
  std::unique_ptr<Net> net(new Net(loop, std::move(options)));
  const int fd = net->tap_.get();
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return failure(errno, "tap", "O_NONBLOCK");
  ifreq request{};
  net->is_tap_ = ::ioctl(fd, TUNGETIFF, &request) == 0;
  int size = sizeof(NetHeader);
  int little = 1;
  if (net->is_tap_ &&
      (::ioctl(fd, TUNSETVNETHDRSZ, &size) != 0 || ::ioctl(fd, TUNSETVNETLE, &little) != 0))
    return failure(errno, "tap", "virtio header");
  return net;
}

uint64_t Net::features() const {
  return kFeatureIndirect | kFeatureEventIdx | bit(kNetChecksum) | bit(kNetGuestChecksum) |
         bit(kNetMtu) | bit(kNetMac) | bit(kNetGuestTso4) | bit(kNetGuestTso6) | bit(kNetHostTso4) |
         bit(kNetHostTso6) | bit(kNetMergeBuffers) | bit(kNetStatus);
}

void Net::read_config(uint64_t offset, uint8_t* data, size_t size) const {
  NetConfig config = config_;
  config.status = status_.load();
  read_struct(config, offset, data, size);
}

// What the tap may give us is what the guest said it can take.
bool Net::offload() const {
  if (!is_tap_) return true;
  unsigned flags = 0;
  if (negotiated(kNetGuestChecksum)) {
    flags = TUN_F_CSUM;
    if (negotiated(kNetGuestTso4)) flags |= TUN_F_TSO4;
    if (negotiated(kNetGuestTso6)) flags |= TUN_F_TSO6;
  }
  return ::ioctl(tap_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(flags)) == 0;
}

void Net::activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) {
  accepted_ = accepted;
  if (queues[kRx] == nullptr || queues[kTx] == nullptr || !offload()) return interrupt->broken();
  rx_ = queues[kRx];
  tx_ = queues[kTx];
  interrupt_ = interrupt;
  const bool segments = negotiated(kNetGuestTso4) || negotiated(kNetGuestTso6);
  largest_ = sizeof(NetHeader) + kVlan +
             (segments ? kMaxFrame : kMinFrame + std::max<size_t>(config_.mtu, 1500));
}

void Net::notify(unsigned queue) {
  if (interrupt_ == nullptr) return;
  if (queue == kRx)
    receive();
  else
    transmit();
}

// --- Towards the guest
// ----------------------------------------------------------------------------

void Net::listen(bool on) {
  if (on == listening_) return;
  if (on)
    listening_ = loop_.watch(tap_.get(), EPOLLIN, [this](uint32_t) { receive(); });
  else
    loop_.unwatch(tap_.get());
  if (!on) listening_ = false;
}

// The tap was taken away: reading it would fail for ever, and watching it never rest.
void Net::link_down() {
  listen(false);
  status_.store(0);
  interrupt_->config();
}

void Net::receive() {
  if (interrupt_ == nullptr || status_.load() == 0) return;
  Step step = Step::kGoOn;
  for (unsigned i = 0; i < kBudget && step == Step::kGoOn; i++) step = receive_one();
  if (rx_->wants_interrupt()) interrupt_->ring();
  if (step == Step::kBroken) return interrupt_->broken();
  if (step == Step::kGoOn) interrupt_->again(kRx);
}

// Takes buffers until the largest frame fits (or, unmerged, one). False: broken.
bool Net::collect() {
  const bool merge = negotiated(kNetMergeBuffers);
  while (count_ < held_.size() && (merge ? room_ < largest_ : count_ == 0)) {
    Chain& chain = held_[(first_ + count_) % held_.size()];
    if (!rx_->pop(chain)) break;
    if (!chain.readable.empty() || chain.writable_bytes < sizeof(NetHeader)) return false;
    count_++;
    room_ += chain.writable_bytes;
  }
  return !rx_->broken();
}

Net::Step Net::receive_one() {
  if (!collect()) return Step::kBroken;
  if (count_ == 0) {
    listen(false);  // until the guest notifies
    return Step::kWait;
  }
  if (frame_bytes_ == 0) {
    const Step step = read_frame(room_);
    if (step != Step::kGoOn || frame_bytes_ == 0) return step;
  }
  // A frame that was read before there was room for it.
  if (frame_bytes_ > room_) {
    const bool more = negotiated(kNetMergeBuffers) && count_ < rx_->size();
    if (more) {
      listen(false);
      return Step::kWait;
    }
    frame_bytes_ = 0;
    counters_.received_dropped++;
    return Step::kGoOn;
  }
  deliver(std::exchange(frame_bytes_, 0), true);
  return Step::kGoOn;
}

// Into the guest's buffers where any frame fits, else into frame_.
Net::Step Net::read_frame(size_t room) {
  bool direct = room >= largest_;
  pieces_.clear();
  for (size_t i = 0; direct && i < count_; i++) {
    const Chain& chain = held_[(first_ + i) % held_.size()];
    slice(chain.writable, 0, chain.writable_bytes, pieces_);
  }
  if (pieces_.size() >= kMaxQueueSize) {  // more than one call takes, with the piece below
    direct = false;
    pieces_.clear();
  }
  pieces_.push_back({frame_.data(), frame_.size()});
  if (!receive_gate_.ready()) {
    listen(false);
    return Step::kWait;
  }
  const ssize_t n = ::readv(tap_.get(), pieces_.data(), static_cast<int>(pieces_.size()));
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    listen(true);
    return Step::kWait;
  }
  if (n <= 0) {
    link_down();
    return Step::kWait;
  }
  const auto bytes = static_cast<size_t>(n);
  receive_gate_.charge(bytes);
  if (bytes < sizeof(NetHeader) + kMinFrame || (direct && bytes > room)) {
    counters_.received_dropped++;
    return Step::kGoOn;
  }
  if (!direct) {
    frame_bytes_ = bytes;
    return Step::kGoOn;
  }
  deliver(bytes, false);
  return Step::kGoOn;
}

// Gives back as many buffers as the frame fills, all at once: the driver collects num_buffers of
// them and takes fewer for an error.
void Net::deliver(size_t bytes, bool copy) {
  size_t done = 0;
  uint16_t used = 0;
  Chain& head = held_[first_];
  while (done < bytes) {
    Chain& chain = held_[(first_ + used) % held_.size()];
    const size_t part = std::min(chain.writable_bytes, bytes - done);
    if (copy) scatter(chain.writable, 0, frame_.data() + done, part);
    done += part;
    used++;
    room_ -= chain.writable_bytes;
    rx_->fill(chain.head, static_cast<uint32_t>(part));
  }
  scatter(head.writable, offsetof(NetHeader, num_buffers), &used, sizeof(used));
  rx_->publish();
  first_ = (first_ + used) % held_.size();
  count_ -= used;
  counters_.received++;
}

// --- From the guest
// -------------------------------------------------------------------------------

void Net::transmit() {
  if (interrupt_ == nullptr) return;
  unsigned left = kBudget;
  bool bad = false;
  for (; left > 0 && tx_->pop(chain_); left--) {
    NetHeader header;
    bad = gather(chain_.readable, 0, &header, sizeof(header)) != sizeof(header) ||
          !chain_.writable.empty();
    if (bad) break;
    if (!transmit_gate_.admit(chain_.readable_bytes)) {
      tx_->unpop(1);
      break;
    }
    const bool sent =
        clean_header(header, chain_.readable_bytes - sizeof(header), accepted_) && send(header);
    (sent ? counters_.transmitted : counters_.transmitted_dropped)++;
    tx_->push(chain_.head, 0);
  }
  if (tx_->wants_interrupt()) interrupt_->ring();
  if (bad || tx_->broken()) return interrupt_->broken();
  if (left == 0) interrupt_->again(kTx);
}

// The header goes from our copy: the guest's may have changed since it was judged.
bool Net::send(const NetHeader& header) {
  pieces_.clear();
  pieces_.push_back({const_cast<NetHeader*>(&header), sizeof(header)});
  slice(chain_.readable, sizeof(header), chain_.readable_bytes - sizeof(header), pieces_);
  return ::writev(tap_.get(), pieces_.data(), static_cast<int>(pieces_.size())) >= 0;
}

// --- Life
// -----------------------------------------------------------------------------------------

void Net::drain() {
  if (rx_ == nullptr) return;
  rx_->unpop(static_cast<uint16_t>(count_));
  count_ = room_ = 0;
}

void Net::reset() {
  listen(false);
  receive_gate_.close();
  transmit_gate_.close();
  count_ = room_ = frame_bytes_ = 0;
  accepted_ = 0;
  rx_ = tx_ = nullptr;
  interrupt_ = nullptr;
}

}  // namespace isopod::vmm::virtio
