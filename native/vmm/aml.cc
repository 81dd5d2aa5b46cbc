#include "vmm/aml.h"

#include "vmm/little_endian.h"

namespace isopod::vmm::aml {

namespace {

constexpr uint8_t kNameOp = 0x08, kByteConst = 0x0a, kDwordConst = 0x0c, kString = 0x0d,
                  kScope = 0x10, kBuffer = 0x11, kPackage = 0x12, kExtended = 0x5b, kDevice = 0x82;

// PkgLength (20.2.4): the number of bytes of itself and what it precedes. Up to 63 in one byte;
// else the top two bits of the first tell how many bytes follow, its low four are the lowest of the
// value.
Code with_length(const Code& body) {
  size_t follow = 0;
  while (body.size() + 1 + follow >= (follow == 0 ? size_t{64} : size_t{1} << (4 + 8 * follow)))
    follow++;
  size_t value = body.size() + 1 + follow;
  Code out;
  if (follow == 0) {
    out.push_back(static_cast<uint8_t>(value));
  } else {
    out.push_back(static_cast<uint8_t>((follow << 6) | (value & 15)));
    value >>= 4;
    for (size_t i = 0; i < follow; i++, value >>= 8) out.push_back(static_cast<uint8_t>(value));
  }
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

Code after(std::initializer_list<uint8_t> opcode, const Code& rest) {
  Code out(opcode);
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

Code named(const std::string& name) { return Code(name.begin(), name.end()); }

}  // namespace

Code join(const std::vector<Code>& parts) {
  Code out;
  for (const Code& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

Code scope(const std::string& name, const std::vector<Code>& body) {
  return after({kScope}, with_length(join({named(name), join(body)})));
}

Code device(const std::string& name, const std::vector<Code>& body) {
  return after({kExtended, kDevice}, with_length(join({named(name), join(body)})));
}

Code name(const std::string& name, const Code& value) {
  return after({kNameOp}, join({named(name), value}));
}

Code integer(uint32_t value) {
  if (value <= 1) return {static_cast<uint8_t>(value)};  // ZeroOp, OneOp
  if (value <= 0xff) return {kByteConst, static_cast<uint8_t>(value)};
  return Bytes().u8(kDwordConst).u32(value).data();
}

Code string(const std::string& value) { return Bytes().u8(kString).text(value).u8(0).data(); }

Code package(const std::vector<Code>& elements) {
  return after({kPackage},
               with_length(join({{static_cast<uint8_t>(elements.size())}, join(elements)})));
}

Code eisa_id(const std::string& id) {
  // Three letters of five bits, four hexadecimal digits, the whole big-endian.
  const auto letter = [&](size_t i) { return static_cast<uint32_t>(id[i] - 0x40) & 0x1f; };
  const auto number = static_cast<uint32_t>(std::stoul(id.substr(3), nullptr, 16));
  const uint32_t value = (letter(0) << 26) | (letter(1) << 21) | (letter(2) << 16) | number;
  return Bytes().u8(kDwordConst).u32(__builtin_bswap32(value)).data();
}

Code resources(const std::vector<Code>& descriptors) {
  const Code list = join({join(descriptors), {0x79, 0}});
  return after({kBuffer}, with_length(join({integer(static_cast<uint32_t>(list.size())), list})));
}

Code memory32(uint32_t base, uint32_t size) {
  // Fixed memory range, read-write.
  return Bytes().u8(0x86).u16(9).u8(1).u32(base).u32(size).data();
}

Code ports(uint16_t base, uint8_t size) {
  return Bytes().u8(0x47).u8(1).u16(base).u16(base).u8(1).u8(size).data();
}

Code interrupt(uint32_t gsi) {
  // Extended interrupt: consumer (bit 0), edge triggered (bit 1).
  return Bytes().u8(0x89).u16(6).u8(3).u8(1).u32(gsi).data();
}

}  // namespace isopod::vmm::aml
