#include "vmm/virtio/vsock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "vmm/virtio/config.h"
#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

namespace {

constexpr uint64_t kPatience = 2'000'000'000;  // for RESPONSE, and for RST after SHUTDOWN
// While so many refusals wait for buffers, the guest's packets wait as well: what a guest can make
// us remember is bounded.
constexpr size_t kMaxRefusals = 128;
constexpr uint32_t kTransportReset = 0;

}  // namespace

Vsock::~Vsock() { reset(); }

// --- The host
// -------------------------------------------------------------------------------------

bool Vsock::listen(uint32_t port, Accept accept) {
  return listeners_.emplace(port, std::move(accept)).second;
}

void Vsock::connect(uint32_t port, Connected done) {
  if (interrupt_ == nullptr)
    return done(failure(ENOTCONN, "connect", "vsock port " + std::to_string(port)));
  do {
    next_port_ = next_port_ == UINT32_MAX ? 0x40000000 : next_port_ + 1;
  } while (find(next_port_, port) != nullptr);
  UniqueFd other;
  auto made = make(next_port_, port, other);
  if (!made) return done(made.error());
  VsockConnection& connection = **made;
  connection.done = std::move(done);
  connection.other = std::move(other);
  connection.want(VIRTIO_VSOCK_OP_REQUEST);
  expire(connection, ETIMEDOUT);
  update(connection);
  serve();
}

// --- Connections
// ----------------------------------------------------------------------------------

VsockConnection* Vsock::find(Id id) {
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second.get();
}

VsockConnection* Vsock::find(uint32_t host_port, uint32_t guest_port) {
  const auto found = by_ports_.find({host_port, guest_port});
  return found == by_ports_.end() ? nullptr : find(found->second);
}

Result<VsockConnection*> Vsock::make(uint32_t host_port, uint32_t guest_port, UniqueFd& other) {
  const auto fail = [&](int err) {
    return failure(err, "connect", "vsock port " + std::to_string(guest_port));
  };
  if (connections_.size() >= kMaxConnections) return fail(EMFILE);
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return fail(errno);
  UniqueFd ours(pair[0]);
  other.reset(pair[1]);
  // Each end has flags of its own: whoever gets the other one may read it as it likes.
  if (::fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) return fail(errno);
  const Id id = next_id_++;
  auto& made = connections_[id];
  made = std::make_unique<VsockConnection>(id, host_port, guest_port, std::move(ours));
  by_ports_[{host_port, guest_port}] = id;
  return made.get();
}

void Vsock::expire(VsockConnection& connection, int err) {
  if (connection.timer != 0) return;
  connection.timer = loop_.after(kPatience, [this, id = connection.id, err] {
    VsockConnection* late = find(id);
    if (late == nullptr) return;
    late->timer = 0;
    abandon(*late, err);
    serve();
  });
}

// The guest no longer knows the stream. What it had sent still goes to the host.
void Vsock::leave(VsockConnection& connection, int err) {
  by_ports_.erase({connection.host_port, connection.guest_port});
  connection.leave();
  if (auto done = std::exchange(connection.done, nullptr)) {
    const Id id = connection.id;
    done(failure(err, "connect", "vsock port " + std::to_string(connection.guest_port)));
    if (find(id) == nullptr) return;
  }
  update(connection);
}

void Vsock::remove(VsockConnection& connection) {
  if (connection.timer != 0) loop_.cancel(connection.timer);
  if (connection.watched) loop_.unwatch(connection.fd());
  const auto known = by_ports_.find({connection.host_port, connection.guest_port});
  if (known != by_ports_.end() && known->second == connection.id) by_ports_.erase(known);
  if (connection.queued) ready_.erase(std::find(ready_.begin(), ready_.end(), connection.id));
  connections_.erase(connection.id);
}

void Vsock::update(VsockConnection& connection) {
  if (connection.over()) return remove(connection);
  watch(connection);
  if (!connection.queued && connection.has_packet()) {
    connection.queued = true;
    ready_.push_back(connection.id);
  }
}

// A closed other end is reported whatever is asked for, and for ever: it is not watched from then
// on. Until then it is, even if for nothing else.
void Vsock::watch(VsockConnection& connection) {
  const uint32_t events = connection.interest();
  if (connection.is_hung_up()) {
    if (std::exchange(connection.watched, false)) loop_.unwatch(connection.fd());
  } else if (!connection.watched) {
    connection.watched = loop_.watch(
        connection.fd(), events, [this, id = connection.id](uint32_t got) { on_events(id, got); });
    if (!connection.watched) connection.hung_up();  // out of memory: no way to go on
  } else if (events != connection.watched_events) {
    loop_.rearm(connection.fd(), events);
  }
  connection.watched_events = events;
}

void Vsock::on_events(Id id, uint32_t events) {
  VsockConnection* connection = find(id);
  if (connection == nullptr) return;
  if ((events & EPOLLOUT) != 0) connection->writable();
  if ((events & EPOLLIN) != 0) connection->readable();
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
    // Asked again: the number may have been another stream's when the event was noted.
    pollfd now{connection->fd(), 0, 0};
    if (::poll(&now, 1, 0) == 1) connection->hung_up();
  }
  update(*connection);
  serve();
}

// --- The guest's packets
// --------------------------------------------------------------------------

void Vsock::activate(uint64_t, std::vector<Queue*> queues, Interrupt* interrupt) {
  if (queues[kRx] == nullptr || queues[kTx] == nullptr || queues[kEvent] == nullptr)
    return interrupt->broken();
  rx_ = queues[kRx];
  tx_ = queues[kTx];
  event_ = queues[kEvent];
  interrupt_ = interrupt;
}

void Vsock::notify(unsigned queue) {
  if (interrupt_ == nullptr) return;
  if (queue == kEvent) return announce_reset();
  serve();
}

// Callbacks of transmit() may connect, and be here again: the outer call sends what they want.
void Vsock::serve() {
  if (interrupt_ == nullptr || serving_) return;
  serving_ = true;
  transmit();
  const bool stalled = refusals_.size() >= kMaxRefusals;
  receive();
  if (stalled && refusals_.size() < kMaxRefusals) interrupt_->again(kTx);
  serving_ = false;
  if (tx_->wants_interrupt()) interrupt_->ring();
  if (rx_->wants_interrupt()) interrupt_->ring();
  if (tx_->broken() || rx_->broken()) interrupt_->broken();
}

void Vsock::transmit() {
  uint16_t left = tx_->size();
  while (left > 0 && refusals_.size() < kMaxRefusals && tx_->pop(chain_)) {
    if (!handle(chain_)) return interrupt_->broken();
    tx_->push(chain_.head, 0);
    left--;
  }
  if (left == 0) interrupt_->again(kTx);
}

// The length that a packet claims is what it is judged by, and it has all those bytes, or none is
// looked at (CVE-2019-18960).
bool Vsock::handle(const Chain& chain) {
  VsockHeader header;
  if (gather(chain.readable, 0, &header, sizeof(header)) != sizeof(header)) return false;
  if (header.len > chain.readable_bytes - sizeof(header)) return false;
  if (header.src_cid != kGuest) return true;  // nobody to answer
  if (header.dst_cid != kHost || header.type != VIRTIO_VSOCK_TYPE_STREAM) {
    refuse(header);
    return true;
  }
  dispatch(header, chain.readable);
  return true;
}

void Vsock::dispatch(const VsockHeader& header, const std::vector<iovec>& packet) {
  VsockConnection* connection = find(header.dst_port, header.src_port);
  if (connection == nullptr) {
    if (header.op == VIRTIO_VSOCK_OP_REQUEST) return accept(header);
    return refuse(header);
  }
  connection->update_credit(header);
  switch (header.op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
      if (connection->open() || connection->wants(VIRTIO_VSOCK_OP_REQUEST)) break;
      return respond(*connection);
    case VIRTIO_VSOCK_OP_RST:
      return leave(*connection, ECONNREFUSED);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      connection->shut_by_guest(header.flags);
      if (!connection->shut_both_by_guest()) return update(*connection);
      return abandon(*connection, ECONNRESET);
    case VIRTIO_VSOCK_OP_RW:
      if (!connection->open() || !connection->take(header, packet)) break;
      return update(*connection);
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      return update(*connection);
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      connection->want(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      return update(*connection);
    default:
      break;
  }
  abandon(*connection, ECONNRESET);
}

void Vsock::accept(const VsockHeader& header) {
  const auto listener = listeners_.find(header.dst_port);
  if (listener == listeners_.end()) return refuse(header);
  UniqueFd other;
  auto made = make(header.dst_port, header.src_port, other);
  if (!made) return refuse(header);
  VsockConnection& connection = **made;
  connection.update_credit(header);
  connection.opened();
  connection.want(VIRTIO_VSOCK_OP_RESPONSE);
  update(connection);
  const Accept accepted = listener->second;  // it may stop listening
  accepted(std::move(other), header.src_port);
}

void Vsock::respond(VsockConnection& connection) {
  connection.opened();
  if (connection.timer != 0) loop_.cancel(std::exchange(connection.timer, 0));
  UniqueFd other = std::move(connection.other);
  const auto done = std::exchange(connection.done, nullptr);
  update(connection);
  done(std::move(other));
}

void Vsock::abandon(VsockConnection& connection, int err) {
  VsockHeader header{};
  header.src_cid = kGuest;
  header.dst_cid = kHost;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.src_port = connection.guest_port;
  header.dst_port = connection.host_port;
  leave(connection, err);
  refuse(header);
}

// RST to whoever sent this; never in answer to one.
void Vsock::refuse(const VsockHeader& header) {
  if (header.op == VIRTIO_VSOCK_OP_RST) return;
  VsockHeader reset{};
  reset.src_cid = header.dst_cid;
  reset.dst_cid = header.src_cid;
  reset.src_port = header.dst_port;
  reset.dst_port = header.src_port;
  reset.type = header.type;
  reset.op = VIRTIO_VSOCK_OP_RST;
  refusals_.push_back(reset);
}

// --- Packets for the guest
// ------------------------------------------------------------------------

void Vsock::receive() {
  uint16_t left = rx_->size();
  while (!refusals_.empty() || !ready_.empty()) {
    if (left-- == 0) return interrupt_->again(kRx);
    if (!rx_->pop(chain_)) return;
    VsockConnection* from = nullptr;
    if (chain_.writable_bytes <= sizeof(VsockHeader)) return interrupt_->broken();
    if (!answer(chain_, from)) rx_->unpop(1);
    if (from != nullptr) update(*from);
  }
}

// Writes one packet; false: the connection whose turn it was had none after all.
bool Vsock::answer(Chain& chain, VsockConnection*& from) {
  VsockHeader header{};
  if (!refusals_.empty()) {
    header = refusals_.front();
    refusals_.pop_front();
  } else {
    from = find(ready_.front());
    ready_.pop_front();
    if (from == nullptr) return false;
    from->queued = false;
    header.src_cid = kHost;
    header.dst_cid = kGuest;
    header.src_port = from->host_port;
    header.dst_port = from->guest_port;
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    std::vector<iovec> room;
    slice(chain.writable, sizeof(header), chain.writable_bytes - sizeof(header), room);
    if (!from->next(header, room)) return false;
    constexpr uint32_t kBoth = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;
    if (header.op == VIRTIO_VSOCK_OP_SHUTDOWN && header.flags == kBoth) expire(*from, ECONNRESET);
  }
  scatter(chain.writable, 0, &header, sizeof(header));
  rx_->push(chain.head, static_cast<uint32_t>(sizeof(header) + header.len));
  return true;
}

void Vsock::announce_reset() {
  if (!restored_ || !event_->pop(chain_)) return;
  const uint32_t event = kTransportReset;
  scatter(chain_.writable, 0, &event, sizeof(event));
  event_->push(chain_.head, sizeof(event));
  restored_ = false;
  if (event_->wants_interrupt()) interrupt_->ring();
}

// --- Life
// -----------------------------------------------------------------------------------------

void Vsock::read_config(uint64_t offset, uint8_t* data, size_t size) const {
  read_struct(virtio_vsock_config{kGuest}, offset, data, size);
}

bool Vsock::load(const std::vector<uint8_t>& state) {
  restored_ = state == save();
  return restored_;
}

void Vsock::reset() {
  rx_ = tx_ = event_ = nullptr;
  interrupt_ = nullptr;
  refusals_.clear();
  ready_.clear();
  while (!connections_.empty()) {
    VsockConnection& connection = *connections_.begin()->second;
    const auto done = std::exchange(connection.done, nullptr);
    const uint32_t port = connection.guest_port;
    remove(connection);
    if (done) done(failure(ECONNRESET, "connect", "vsock port " + std::to_string(port)));
  }
}

}  // namespace isopod::vmm::virtio
