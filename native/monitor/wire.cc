#include "monitor/wire.h"

#include <cstring>

namespace isopod::monitor {

namespace {
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };
constexpr int64_t kNanosecondsPerSecond = 1000000000;
}  // namespace

bool WireReader::varint(uint64_t* value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) return false;
    const auto byte = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool WireReader::fixed(size_t size, uint64_t* value) {
  if (rest_.size() < size) return false;
  *value = 0;
  memcpy(value, rest_.data(), size);
  rest_.remove_prefix(size);
  return true;
}

bool WireReader::next(Field* field) {
  if (!ok_ || rest_.empty()) return false;
  ok_ = false;
  uint64_t tag = 0;
  if (!varint(&tag) || tag >> 3 == 0 || tag >> 32 != 0) return false;
  *field = Field{};
  field->number = static_cast<uint32_t>(tag >> 3);
  switch (tag & 7) {
    case kVarint:
      ok_ = varint(&field->value);
      break;
    case kFixed64:
      ok_ = fixed(8, &field->value);
      break;
    case kFixed32:
      ok_ = fixed(4, &field->value);
      break;
    case kDelimited: {
      uint64_t size = 0;
      if (!varint(&size) || size > rest_.size()) return false;
      field->delimited = true;
      field->bytes = {rest_.data(), static_cast<size_t>(size)};
      rest_.remove_prefix(static_cast<size_t>(size));
      ok_ = true;
      break;
    }
    default:
      break;
  }
  return ok_;
}

void WireWriter::raw(uint64_t value) {
  do {
    if (size_ == capacity_) {
      ok_ = false;
      return;
    }
    const auto low = static_cast<unsigned char>(value & 0x7f);
    value >>= 7;
    buffer_[size_++] = static_cast<char>(value != 0 ? low | 0x80 : low);
  } while (value != 0);
}

void WireWriter::number(uint32_t field, uint64_t value) {
  if (value == 0) return;
  raw(static_cast<uint64_t>(field) << 3 | kVarint);
  raw(value);
}

void WireWriter::bytes(uint32_t field, std::string_view value) {
  if (value.empty()) return;
  raw(static_cast<uint64_t>(field) << 3 | kDelimited);
  raw(value.size());
  if (!ok_ || capacity_ - size_ < value.size()) {
    ok_ = false;
    return;
  }
  memcpy(buffer_ + size_, value.data(), value.size());
  size_ += value.size();
}

void WireWriter::timestamp(uint32_t field, int64_t nanoseconds) {
  char inner[32];
  WireWriter message(inner, sizeof inner);
  message.number(1, static_cast<uint64_t>(nanoseconds / kNanosecondsPerSecond));
  message.number(2, static_cast<uint64_t>(nanoseconds % kNanosecondsPerSecond));
  bytes(field, message.view());
}

int64_t read_timestamp(std::string_view message) {
  WireReader reader(message);
  int64_t nanoseconds = 0;
  for (Field field; reader.next(&field);) {
    const auto value = static_cast<int64_t>(field.value);
    if (field.number == 1) nanoseconds += value * kNanosecondsPerSecond;
    if (field.number == 2) nanoseconds += value;
  }
  return nanoseconds;
}

}  // namespace isopod::monitor
