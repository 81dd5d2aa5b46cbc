#include "vmm/virtio/net_header.h"

namespace isopod::vmm::virtio {

namespace {

constexpr uint32_t kChecksumSize = 2;
constexpr uint32_t kMinTcp = 20;

bool negotiated_type(uint8_t type, uint64_t negotiated) {
  switch (type) {
    case kGsoTcp4:
      return (negotiated >> kNetHostTso4 & 1) != 0;
    case kGsoTcp6:
      return (negotiated >> kNetHostTso6 & 1) != 0;
    default:
      return false;  // UFO, ECN, UDP segmentation are not offered
  }
}

}  // namespace

bool clean_header(NetHeader& header, size_t frame, uint64_t negotiated) {
  if (frame < kMinFrame || frame > kMaxFrame) return false;
  header.flags &= kNeedsChecksum;
  header.num_buffers = 0;
  if (header.flags != 0) {
    if ((negotiated >> kNetChecksum & 1) == 0) return false;
    const uint32_t end = uint32_t{header.csum_start} + header.csum_offset + kChecksumSize;
    if (header.csum_start < kMinFrame || end > frame) return false;
  } else {
    header.csum_start = header.csum_offset = 0;
  }
  if (header.gso_type == kGsoNone) {
    header.gso_size = header.hdr_len = 0;
    return true;
  }
  if (!negotiated_type(header.gso_type, negotiated)) return false;
  // Segments need checksums, a size, and a TCP header to repeat (5.1.6.2).
  return header.flags != 0 && header.gso_size != 0 && header.hdr_len <= frame &&
         uint32_t{header.csum_start} + kMinTcp <= frame;
}

}  // namespace isopod::vmm::virtio
