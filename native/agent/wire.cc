#include "agent/wire.h"

namespace isopod::agent {

namespace {

enum Type : uint32_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };

}  // namespace

void Reader::fail() {
  ok_ = false;
  pending_ = false;
  at_ = end_;
}

bool Reader::next() {
  if (pending_) skip();
  if (!ok_ || at_ == end_) return false;
  uint64_t tag = 0;
  if (!varint(tag) || tag > UINT32_MAX || (tag >> 3) == 0) return fail(), false;
  field_ = static_cast<uint32_t>(tag >> 3);
  type_ = static_cast<uint32_t>(tag & 7);
  pending_ = true;
  return true;
}

bool Reader::varint(uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (at_ == end_) return false;
    const auto byte = static_cast<uint8_t>(*at_++);
    // The tenth byte holds the 64th bit only.
    if (shift == 63 && byte > 1) return false;
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool Reader::take(uint64_t size, std::string_view& value) {
  if (size > static_cast<uint64_t>(end_ - at_)) return false;
  value = std::string_view(at_, static_cast<size_t>(size));
  at_ += size;
  return true;
}

void Reader::skip() {
  uint64_t number = 0;
  std::string_view bytes;
  bool good = false;
  switch (type_) {
    case kVarint:
      good = varint(number);
      break;
    case kFixed64:
      good = take(8, bytes);
      break;
    case kLength:
      good = varint(number) && take(number, bytes);
      break;
    case kFixed32:
      good = take(4, bytes);
      break;
    default:
      break;
  }
  pending_ = false;
  if (!good) fail();
}

uint64_t Reader::number() {
  uint64_t value = 0;
  if (!pending_ || type_ != kVarint || !varint(value)) return fail(), 0;
  pending_ = false;
  return value;
}

uint32_t Reader::word() {
  const uint64_t value = number();
  if (value > UINT32_MAX) return fail(), 0;
  return static_cast<uint32_t>(value);
}

std::string_view Reader::bytes() {
  uint64_t size = 0;
  std::string_view value;
  if (!pending_ || type_ != kLength || !varint(size) || !take(size, value)) return fail(), "";
  pending_ = false;
  return value;
}

std::string Reader::text() {
  const std::string_view value = bytes();
  if (value.find('\0') != std::string_view::npos) return fail(), "";
  return std::string(value);
}

void Writer::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
  out_.push_back(static_cast<char>(value));
}

void Writer::number(uint32_t field, uint64_t value) {
  if (value == 0) return;
  varint(uint64_t{field} << 3 | kVarint);
  varint(value);
}

void Writer::bytes(uint32_t field, std::string_view value) {
  if (!value.empty()) element(field, value);
}

void Writer::element(uint32_t field, std::string_view value) {
  varint(uint64_t{field} << 3 | kLength);
  varint(value.size());
  out_.append(value);
}

}  // namespace isopod::agent
