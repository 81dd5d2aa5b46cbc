// LZ4's block format and the "legacy" frame around it, in which Linux kernels are compressed. The
// input is hostile.
//
// A block is a series of sequences: a token (high four bits: number of literals, low four: length
// of the match less 4; 15 means that bytes follow, added up until one is not 255), the literals,
// then two bytes that say how far back the match begins. The last sequence ends after its literals.
// A legacy frame is a magic number, then blocks of at most 8 MiB of content, each after its
// compressed size in four bytes (lz4_Frame_format.md, "Legacy frame").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace isopod::vmm {

constexpr uint32_t kLz4LegacyMagic = 0x184c2102;

// Inflates one block to `out`, at most `room` bytes; how many it were, or nothing if the input is
// damaged or has more to say.
std::optional<size_t> lz4_block(const uint8_t* in, size_t size, uint8_t* out, size_t room);

// A whole legacy frame whose content is `content` bytes long; nothing if it is damaged or another
// length.
std::optional<std::vector<uint8_t>> lz4_legacy(const uint8_t* in, size_t size, size_t content);

}  // namespace isopod::vmm
