// Protobuf's wire format, as much as a shim's launcher needs: varints and length-delimited fields.
#pragma once

#include <cstdint>
#include <string_view>

namespace isopod::monitor {

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // of a varint or fixed field
  std::string_view bytes;  // of a length-delimited field, else empty
  bool delimited = false;
};

// Iterates over the fields of one message. Ends early, with ok() false, at anything malformed.
class WireReader {
 public:
  explicit WireReader(std::string_view message) : rest_(message) {}

  bool next(Field* field);
  bool ok() const { return ok_; }

 private:
  bool varint(uint64_t* value);
  bool fixed(size_t size, uint64_t* value);

  std::string_view rest_;
  bool ok_ = true;
};

// Writes into memory of the caller's; ok() is false once something did not fit. As proto3 does, zero and
// empty values are left out.
class WireWriter {
 public:
  WireWriter(char* buffer, size_t capacity) : buffer_(buffer), capacity_(capacity) {}

  void number(uint32_t field, uint64_t value);
  void bytes(uint32_t field, std::string_view value);
  // google.protobuf.Timestamp of nanoseconds since 1970.
  void timestamp(uint32_t field, int64_t nanoseconds);

  bool ok() const { return ok_; }
  std::string_view view() const { return {buffer_, size_}; }

 private:
  void raw(uint64_t value);

  char* buffer_;
  size_t capacity_;
  size_t size_ = 0;
  bool ok_ = true;
};

// Nanoseconds since 1970 of a google.protobuf.Timestamp.
int64_t read_timestamp(std::string_view message);

}  // namespace isopod::monitor
