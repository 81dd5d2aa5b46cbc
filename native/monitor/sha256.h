// SHA-256 (FIPS 180-4), for the names of sockets.
#pragma once

#include <cstdint>
#include <string_view>

namespace isopod::monitor {

class Sha256 {
 public:
  Sha256& add(std::string_view text);
  // Ends the sum; nothing may be added afterwards.
  void finish(uint8_t digest[32]);

 private:
  void block(const uint8_t* data);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t pending_[64] = {};
  uint64_t size_ = 0;
};

// Lower-case hex of the first `digits` / 2 bytes of the sum of `text`.
void sha256_hex(std::string_view text, char* out, size_t digits);

}  // namespace isopod::monitor
