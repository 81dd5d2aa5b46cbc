// The protobuf wire format, as much of it as the agent's messages need.
//
//   message  = (tag value)*           tag = field << 3 | type, a varint
//   type 0   varint: 7 bits a byte, least significant first, top bit: more follow; at most 10 bytes
//   type 1   8 bytes    type 5   4 bytes    type 2   length (varint), then so many bytes
//
// Types 3 and 4 (groups) are long gone and refused. Unknown fields are skipped: the other side may
// be newer. What comes is hostile: nothing is read beyond the buffer, nothing is allocated for a
// length that only claims to be there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace isopod::agent {

// Reads one message, field by field:
//
//   for (Reader in(bytes); in.next();)
//     switch (in.field()) { case 1: id = in.text(); break; }
//   if (!in.ok()) …
//
// A value that is not asked for, or not of the type asked for, is skipped or makes it fail; once it
// has failed, every value is empty.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  // The next field. False at the end, and after a failure.
  bool next();
  uint32_t field() const { return field_; }

  uint64_t number();
  int64_t signed_number() { return static_cast<int64_t>(number()); }
  // Fails for a value beyond 32 bits: a length or a port cut short would be another one.
  uint32_t word();
  bool flag() { return number() != 0; }
  std::string_view bytes();
  // Fails for a NUL: what follows it would be lost on the way into the kernel.
  std::string text();

  bool ok() const { return ok_; }
  // For what a caller finds wrong in a value.
  void fail();

 private:
  bool varint(uint64_t& value);
  bool take(uint64_t size, std::string_view& value);
  void skip();

  const char* at_;
  const char* end_;
  uint32_t field_ = 0;
  uint32_t type_ = 0;
  bool pending_ = false;  // the field's value has not been read
  bool ok_ = true;
};

// Appends fields. As in proto3, a field with its type's zero value is left out.
class Writer {
 public:
  void number(uint32_t field, uint64_t value);
  void bytes(uint32_t field, std::string_view value);
  // Written even if it is empty: for elements of repeated fields, and messages whose presence
  // counts.
  void element(uint32_t field, std::string_view value);

  const std::string& str() const { return out_; }
  std::string take() { return std::move(out_); }

 private:
  void varint(uint64_t value);

  std::string out_;
};

}  // namespace isopod::agent
