// Socket device (virtio 1.2, 5.10): streams between the guest and this process, without AF_VSOCK on
// the host: no host-wide number, every guest is CID 3 and the host is 2.
//
// Whoever listens or connects gets one end of a socketpair (SOCK_STREAM, blocking), which is a
// stream like any other: half-close both ways, backpressure by credit. Everything here happens on
// the loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "vmm/virtio/device.h"
#include "vmm/virtio/queue.h"
#include "vmm/virtio/vsock_connection.h"

namespace isopod::vmm::virtio {

class Vsock final : public Device {
 public:
  static constexpr uint64_t kGuest = 3;
  static constexpr uint64_t kHost = 2;
  static constexpr size_t kMaxConnections = 1023;

  // The loop is borrowed.
  explicit Vsock(Loop& loop) : loop_(loop) {}
  ~Vsock() override;

  // The guest's connections to a port of the host; a port that nobody listens at refuses them.
  // False: somebody listens already.
  using Accept = std::function<void(UniqueFd stream, uint32_t guest_port)>;
  [[nodiscard]] bool listen(uint32_t port, Accept accept);
  void unlisten(uint32_t port) { listeners_.erase(port); }

  // To a port of the guest. `done` is called once, perhaps before connect() returns: ECONNREFUSED
  // nobody listens, ETIMEDOUT no answer in two seconds, ENOTCONN the guest has no driver (yet),
  // ECONNRESET it was reset, EMFILE too many connections.
  using Connected = std::function<void(Result<UniqueFd>)>;
  void connect(uint32_t port, Connected done);

  size_t connections() const { return connections_.size(); }

  uint32_t id() const override { return 19; }
  uint64_t features() const override { return kFeatureIndirect | kFeatureEventIdx; }
  std::vector<uint16_t> queue_sizes() const override { return {128, 128, 16}; }
  void read_config(uint64_t offset, uint8_t* data, size_t size) const override;
  void write_config(uint64_t, const uint8_t*, size_t) override {}
  void activate(uint64_t accepted, std::vector<Queue*> queues, Interrupt* interrupt) override;
  void notify(unsigned queue) override;
  void reset() override;
  // Streams do not outlive a snapshot: the restored guest is told so (TRANSPORT_RESET).
  std::vector<uint8_t> save() const override { return {1}; }
  bool load(const std::vector<uint8_t>& state) override;

 private:
  enum { kRx = 0, kTx = 1, kEvent = 2 };
  using Id = uint64_t;

  void serve();
  void transmit();  // the guest's packets
  void receive();   // packets for the guest
  void announce_reset();
  [[nodiscard]] bool handle(const Chain& chain);  // false: no packet at all
  void dispatch(const VsockHeader& header, const std::vector<iovec>& packet);
  void accept(const VsockHeader& header);
  void respond(VsockConnection& connection);
  void refuse(const VsockHeader& header);
  bool answer(Chain& chain, VsockConnection*& from);

  VsockConnection* find(Id id);
  VsockConnection* find(uint32_t host_port, uint32_t guest_port);
  Result<VsockConnection*> make(uint32_t host_port, uint32_t guest_port, UniqueFd& other);
  void update(VsockConnection& connection);  // after anything that changed it; may remove it
  void watch(VsockConnection& connection);
  void on_events(Id id, uint32_t events);
  void abandon(VsockConnection& connection, int err);  // RST to the guest
  void leave(VsockConnection& connection, int err);
  void remove(VsockConnection& connection);
  void expire(VsockConnection& connection, int err);

  Loop& loop_;
  std::map<uint32_t, Accept> listeners_;
  std::unordered_map<Id, std::unique_ptr<VsockConnection>> connections_;
  std::map<std::pair<uint32_t, uint32_t>, Id> by_ports_;  // host, guest: those the guest knows of
  Id next_id_ = 1;
  uint32_t next_port_ = 0x40000000;

  std::deque<Id> ready_;              // with a packet for the guest, in turn
  std::deque<VsockHeader> refusals_;  // RST for what is no connection
  bool restored_ = false;
  bool serving_ = false;

  Queue* rx_ = nullptr;
  Queue* tx_ = nullptr;
  Queue* event_ = nullptr;
  Interrupt* interrupt_ = nullptr;
  Chain chain_;
};

}  // namespace isopod::vmm::virtio
