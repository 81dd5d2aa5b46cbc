// What a compiler expects of every environment, and the little string handling the stub needs.
#include "init/stub.h"

#ifndef ISOPOD_HOSTED
extern "C" {
void* memcpy(void* to, const void* from, size_t size) {
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < size; i++) target[i] = source[i];
  return to;
}
void* memmove(void* to, const void* from, size_t size) {
  auto* target = static_cast<unsigned char*>(to);
  const auto* source = static_cast<const unsigned char*>(from);
  if (target <= source) return memcpy(to, from, size);
  for (size_t i = size; i > 0; i--) target[i - 1] = source[i - 1];
  return to;
}
void* memset(void* to, int value, size_t size) {
  auto* target = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < size; i++) target[i] = static_cast<unsigned char>(value);
  return to;
}
int memcmp(const void* a, const void* b, size_t size) {
  const auto* left = static_cast<const unsigned char*>(a);
  const auto* right = static_cast<const unsigned char*>(b);
  for (size_t i = 0; i < size; i++)
    if (left[i] != right[i]) return left[i] - right[i];
  return 0;
}
}
#endif

namespace isopod::init {

Stub stub{};

size_t length(const char* text) {
  size_t n = 0;
  while (text[n] != 0) n++;
  return n;
}

bool equal(const char* a, const char* b) {
  size_t i = 0;
  while (a[i] != 0 && a[i] == b[i]) i++;
  return a[i] == b[i];
}

bool append(char* buffer, size_t size, const char* text) {
  size_t at = length(buffer);
  size_t i = 0;
  while (text[i] != 0 && at + 1 < size) buffer[at++] = text[i++];
  buffer[at] = 0;
  return text[i] == 0;
}

bool append_number(char* buffer, size_t size, int64_t value) {
  char digits[24];
  size_t at = sizeof(digits);
  digits[--at] = 0;
  uint64_t rest = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  do {
    digits[--at] = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  if (value < 0) digits[--at] = '-';
  return append(buffer, size, digits + at);
}

void* pages(size_t size) {
  constexpr long kProtReadWrite = 3, kPrivateAnonymous = 0x22;
  const long result =
      sys::raw(SYS_mmap, 0, static_cast<long>(size), kProtReadWrite, kPrivateAnonymous, -1, 0);
  return result < 0 ? nullptr : reinterpret_cast<void*>(result);
}

}  // namespace isopod::init
