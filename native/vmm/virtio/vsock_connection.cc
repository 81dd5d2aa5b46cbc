#include "vmm/virtio/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

VsockConnection::VsockConnection(uint64_t id_, uint32_t host_port_, uint32_t guest_port_,
                                 UniqueFd fd)
    : id(id_), host_port(host_port_), guest_port(guest_port_), fd_(std::move(fd)) {}

// --- From the guest
// -------------------------------------------------------------------------------

void VsockConnection::update_credit(const VsockHeader& header) {
  peer_buffer_ = header.buf_alloc;
  peer_forwarded_ = header.fwd_cnt;
  credit_requested_ = false;
}

bool VsockConnection::take(const VsockHeader& header, const std::vector<iovec>& packet) {
  // In wrapping arithmetic: what is here and not yet forwarded never exceeds the buffer.
  if (guest_done_ || header.len > kVsockBuffer - (received_ - forwarded_)) return false;
  received_ += header.len;
  if (host_deaf_) {
    forwarded(header.len);
    return true;
  }
  std::vector<iovec> pieces;
  slice(packet, sizeof(VsockHeader), header.len, pieces);
  size_t sent = 0;
  if (backlog_.empty()) {
    sent = send_now(pieces);
    forwarded(sent);
  }
  if (host_deaf_) {
    forwarded(header.len - sent);
    return true;
  }
  const size_t left = header.len - sent;
  const size_t end = backlog_.size();
  backlog_.resize(end + left);
  gather(pieces, sent, backlog_.data() + end, left);
  return true;
}

void VsockConnection::forwarded(size_t bytes) {
  forwarded_ += static_cast<uint32_t>(bytes);
  // The guest sees a buffer with less than half its room: it is told before it must wait.
  const uint32_t seen = kVsockBuffer - (received_ - announced_);
  if (seen < kVsockBuffer / 2 && announced_ != forwarded_) want(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

// Bytes that the socket took. An end that reads no more takes all there is to come.
size_t VsockConnection::send_now(const std::vector<iovec>& pieces) {
  if (pieces.empty()) return 0;
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  ssize_t n;
  do {
    n = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n >= 0) return static_cast<size_t>(n);
  if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
    host_deaf_ = true;
    want(VIRTIO_VSOCK_OP_SHUTDOWN);
  }
  return 0;
}

void VsockConnection::writable() {
  const size_t size = backlog_.size() - backlog_start_;
  if (size == 0) return;
  const size_t sent = send_now({{backlog_.data() + backlog_start_, size}});
  backlog_start_ += sent;
  forwarded(sent);
  if (host_deaf_) {
    forwarded(size - sent);
    backlog_start_ = backlog_.size();
  }
  if (backlog_start_ == backlog_.size()) {
    backlog_ = {};  // an idle stream holds no memory
    backlog_start_ = 0;
    if (guest_done_) ::shutdown(fd_.get(), SHUT_WR);
  } else if (backlog_start_ >= kVsockBuffer) {
    backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<ptrdiff_t>(backlog_start_));
    backlog_start_ = 0;
  }
}

void VsockConnection::shut_by_guest(uint32_t flags) {
  if ((flags & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 && !guest_done_) {
    guest_done_ = true;
    if (backlog_.empty()) ::shutdown(fd_.get(), SHUT_WR);
  }
  if ((flags & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0 && !guest_deaf_) {
    guest_deaf_ = host_done_ = true;
    ::shutdown(fd_.get(), SHUT_RD);  // the host's writes fail from now on
    if (hung_up_) want(VIRTIO_VSOCK_OP_SHUTDOWN);
  }
}

bool VsockConnection::shut_both_by_guest() const { return guest_deaf_ && guest_done_; }

// --- From the host
// --------------------------------------------------------------------------------

void VsockConnection::hung_up() {
  if (hung_up_) return;
  hung_up_ = true;
  data_ready_ = true;  // what it wrote before is still to be read
  if (!host_deaf_) {
    host_deaf_ = true;
    forwarded(backlog_.size() - backlog_start_);
    backlog_ = {};
    backlog_start_ = 0;
  }
  // Not before the end was read, which says it as well.
  if (host_done_) want(VIRTIO_VSOCK_OP_SHUTDOWN);
}

uint32_t VsockConnection::interest() const {
  uint32_t events = 0;
  if (open_ && !left_ && !host_done_ && !guest_deaf_ && !data_ready_) events |= EPOLLIN;
  if (!backlog_.empty()) events |= EPOLLOUT;
  return events;
}

bool VsockConnection::over() const { return left_ && (backlog_.empty() || hung_up_); }

// --- To the guest
// ---------------------------------------------------------------------------------

// A guest that shrank its buffer, or claims to have forwarded what it never got, has none.
uint32_t VsockConnection::credit() const {
  const uint32_t under_way = sent_ - peer_forwarded_;
  return under_way > peer_buffer_ ? 0 : peer_buffer_ - under_way;
}

bool VsockConnection::has_packet() const {
  if (left_) return false;
  if (wanted_ != 0) return true;
  if (!open_ || !data_ready_ || host_done_ || guest_deaf_) return false;
  return credit() > 0 || !credit_requested_;
}

// Bytes; 0: nothing now, or (host_done_) ever.
size_t VsockConnection::read_into(const std::vector<iovec>& room) {
  std::vector<iovec> pieces;
  slice(room, 0, std::min(credit(), kVsockMaxPacket), pieces);
  if (pieces.empty()) return 0;
  ssize_t n;
  do {
    n = ::readv(fd_.get(), pieces.data(), static_cast<int>(pieces.size()));
  } while (n < 0 && errno == EINTR);
  if (n > 0) return static_cast<size_t>(n);
  data_ready_ = false;
  if (n < 0 && errno == EAGAIN) return 0;
  host_done_ = true;  // end of file, or an error after which there is nothing to read
  want(VIRTIO_VSOCK_OP_SHUTDOWN);
  return 0;
}

bool VsockConnection::next(VsockHeader& header, const std::vector<iovec>& room) {
  header.buf_alloc = kVsockBuffer;
  header.fwd_cnt = announced_ = forwarded_;
  header.flags = 0;
  header.len = 0;
  const auto take_wish = [&](uint16_t op) {
    if (!wants(op)) return false;
    wanted_ &= ~(1U << op);
    header.op = op;
    return true;
  };
  if (take_wish(VIRTIO_VSOCK_OP_RST) || take_wish(VIRTIO_VSOCK_OP_REQUEST) ||
      take_wish(VIRTIO_VSOCK_OP_RESPONSE))
    return true;
  if (open_ && data_ready_ && !host_done_ && !guest_deaf_) {
    const size_t bytes = read_into(room);
    if (bytes > 0) {
      header.op = VIRTIO_VSOCK_OP_RW;
      header.len = static_cast<uint32_t>(bytes);
      sent_ += header.len;
      wanted_ &= ~(1U << VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      return true;
    }
    if (data_ready_ && !credit_requested_) {
      credit_requested_ = true;
      header.op = VIRTIO_VSOCK_OP_CREDIT_REQUEST;
      return true;
    }
  }
  if (take_wish(VIRTIO_VSOCK_OP_SHUTDOWN)) {
    if (host_done_) header.flags |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    if (host_deaf_) header.flags |= VIRTIO_VSOCK_SHUTDOWN_RCV;
    return true;
  }
  return take_wish(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
}

}  // namespace isopod::vmm::virtio
