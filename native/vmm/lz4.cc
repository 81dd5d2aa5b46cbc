#include "vmm/lz4.h"

#include <algorithm>
#include <cstring>

#include "vmm/little_endian.h"

namespace isopod::vmm {

namespace {

constexpr size_t kMinMatch = 4;
constexpr size_t kMaxBlock = size_t{8} << 20;

struct Input {
  const uint8_t* at;
  const uint8_t* end;
  size_t left() const { return static_cast<size_t>(end - at); }
};

// A length of which the token gave `nibble`. False: the input ends within it.
bool length(Input& in, size_t nibble, size_t* value) {
  *value = nibble;
  if (nibble != 15) return true;
  for (;;) {
    if (in.left() == 0) return false;
    const uint8_t more = *in.at++;
    *value += more;
    if (more != 255) return true;
  }
}

}  // namespace

std::optional<size_t> lz4_block(const uint8_t* data, size_t size, uint8_t* out, size_t room) {
  Input in{data, data + size};
  size_t done = 0;
  while (in.left() > 0) {
    const uint8_t token = *in.at++;
    size_t literals, match;
    if (!length(in, token >> 4, &literals)) return std::nullopt;
    if (literals > in.left() || literals > room - done) return std::nullopt;
    std::copy_n(in.at, literals, out + done);
    in.at += literals;
    done += literals;
    if (in.left() == 0) return done;
    if (in.left() < 2) return std::nullopt;
    const size_t back = load_le<uint16_t>(in.at);
    in.at += 2;
    if (!length(in, token & 15, &match)) return std::nullopt;
    match += kMinMatch;
    if (back == 0 || back > done || match > room - done) return std::nullopt;
    // Byte by byte: a match may run into what it is making.
    for (size_t i = 0; i < match; i++) out[done + i] = out[done + i - back];
    done += match;
  }
  // A block ends with literals; an empty one has at least the token.
  return std::nullopt;
}

std::optional<std::vector<uint8_t>> lz4_legacy(const uint8_t* in, size_t size, size_t content) {
  if (size < 4 || load_le<uint32_t>(in) != kLz4LegacyMagic) return std::nullopt;
  // What a byte can inflate to is bounded, so that a lying size reserves no memory for nothing.
  if (content / 255 > size) return std::nullopt;
  std::vector<uint8_t> out(content);
  size_t at = 4, done = 0;
  while (size - at >= 4) {
    const size_t block = load_le<uint32_t>(in + at);
    at += 4;
    if (block > size - at) return std::nullopt;
    const auto made =
        lz4_block(in + at, block, out.data() + done, std::min(kMaxBlock, content - done));
    if (!made) return std::nullopt;
    at += block;
    done += *made;
  }
  if (at != size || done != content) return std::nullopt;
  return out;
}

}  // namespace isopod::vmm
