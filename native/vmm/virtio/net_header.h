// The header before each frame: what is left to do for whoever sends it on (checksum, cutting into
// segments). A guest's header reaches the host's network code, and offsets in it that lie outside
// the frame have been written through before (CVE-2024-11614): only what was negotiated and fits is
// passed on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isopod::vmm::virtio {

// <linux/virtio_net.h> is C: one of its fields is called "class". Feature bits:
enum NetFeature : unsigned {
  kNetChecksum = 0,       // we take frames without a checksum
  kNetGuestChecksum = 1,  // so does the guest
  kNetMtu = 3,
  kNetMac = 5,
  kNetGuestTso4 = 7,  // we may give the guest frames longer than the MTU
  kNetGuestTso6 = 8,
  kNetHostTso4 = 11,  // and it us
  kNetHostTso6 = 12,
  kNetMergeBuffers = 15,  // one frame in several receive buffers
  kNetStatus = 16,
};

constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kGsoNone = 0;
constexpr uint8_t kGsoTcp4 = 1;
constexpr uint8_t kGsoTcp6 = 4;

struct NetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};
static_assert(sizeof(NetHeader) == 12);

struct NetConfig {
  uint8_t mac[6];
  uint16_t status;  // bit 0: the link is up
  uint16_t max_virtqueue_pairs;
  uint16_t mtu;
};
static_assert(sizeof(NetConfig) == 12);

constexpr size_t kMinFrame = 14;
constexpr size_t kMaxFrame = 65550;  // 64 KiB of IP and its Ethernet header

// False: the frame is to be dropped. `header`, the monitor's copy, is cleared of what means
// nothing.
[[nodiscard]] bool clean_header(NetHeader& header, size_t frame, uint64_t negotiated);

}  // namespace isopod::vmm::virtio
