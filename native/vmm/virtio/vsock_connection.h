// One stream between a port of the guest and a descriptor of the host.
//
// The host's side is one end of a socketpair; its other end is whoever asked for the stream. Bytes
// of the guest go into it as far as it takes them, the rest waits in a backlog; bytes of the host
// are read from it straight into the guest's buffers.
//
// Credit: each side says in every packet how large its buffer is (buf_alloc) and how many bytes
// have left it (fwd_cnt), counting in 32 bits that wrap. A peer may have buf_alloc bytes under way,
// no more: a guest that sends more loses the connection, and we never do.
//
// Ends: SHUTDOWN closes one or both directions, RST is the end of all. The guest is through when
// both sides are shut and it is told RST; what it had sent by then still reaches the host.
#pragma once

#include <linux/virtio_vsock.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/loop.h"

namespace isopod::vmm::virtio {

using VsockHeader = virtio_vsock_hdr;
static_assert(sizeof(VsockHeader) == 44);

constexpr uint32_t kVsockBuffer = 131072;    // what we take before the host has read it
constexpr uint32_t kVsockMaxPacket = 65536;  // data in one packet of ours

// No thread of its own and no queue: Vsock drives it, on the loop's thread.
class VsockConnection {
 public:
  VsockConnection(uint64_t id_, uint32_t host_port_, uint32_t guest_port_, UniqueFd fd);

  const uint64_t id;
  const uint32_t host_port;
  const uint32_t guest_port;

  // --- from the guest ---
  // False: it broke the rules of credit or order, and is to be reset.
  [[nodiscard]] bool take(const VsockHeader& header, const std::vector<iovec>& packet);
  void update_credit(const VsockHeader& header);
  void shut_by_guest(uint32_t flags);
  bool shut_both_by_guest() const;

  // --- from the host's end ---
  void writable();  // goes on with the backlog
  void readable() { data_ready_ = true; }
  void hung_up();  // the other end is closed
  bool is_hung_up() const { return hung_up_; }
  // EPOLLIN, EPOLLOUT as they are of interest now.
  uint32_t interest() const;

  // --- to the guest ---
  void want(uint16_t op) { wanted_ |= 1U << op; }
  bool wants(uint16_t op) const { return (wanted_ & 1U << op) != 0; }
  // Whether next() may have something.
  bool has_packet() const;
  // Fills op, flags, len, buf_alloc and fwd_cnt of the next packet, its data already in `room`
  // (what follows the header in the guest's buffer). False: there is none after all.
  [[nodiscard]] bool next(VsockHeader& header, const std::vector<iovec>& room);

  bool open() const { return open_; }
  void opened() { open_ = true; }
  // The guest knows nothing of it any more; it lives until the backlog is through.
  void leave() { left_ = true; }
  bool over() const;

  int fd() const { return fd_.get(); }
  bool watched = false;  // by Vsock, with these events
  uint32_t watched_events = 0;
  bool queued = false;                         // in Vsock's list of those with a packet
  Loop::Timer timer = 0;                       // connecting, or waiting for RST
  std::function<void(Result<UniqueFd>)> done;  // of connect(), while not open
  UniqueFd other;                              // handed to `done`

 private:
  size_t send_now(const std::vector<iovec>& pieces);
  void forwarded(size_t bytes);
  uint32_t credit() const;
  size_t read_into(const std::vector<iovec>& room);

  UniqueFd fd_;
  bool open_ = false;
  bool left_ = false;
  bool hung_up_ = false;     // the host closed its end
  bool host_deaf_ = false;   // the host reads no more
  bool host_done_ = false;   // the host writes no more, and all it wrote was sent
  bool guest_deaf_ = false;  // SHUTDOWN: the guest receives no more
  bool guest_done_ = false;  // SHUTDOWN: the guest sends no more
  bool data_ready_ = false;  // fd_ has something, or its end
  uint32_t wanted_ = 0;      // bit n: a packet with op n
  bool credit_requested_ = false;

  std::vector<uint8_t> backlog_;
  size_t backlog_start_ = 0;
  uint32_t received_ = 0;
  uint32_t forwarded_ = 0;
  uint32_t announced_ = 0;  // forwarded_, as the guest was told last
  uint32_t sent_ = 0;
  uint32_t peer_buffer_ = 0;
  uint32_t peer_forwarded_ = 0;
};

}  // namespace isopod::vmm::virtio
