#include "monitor/json.h"

#include <cstring>

namespace isopod::monitor {

namespace {

constexpr int kMaxDepth = 64;

struct Scanner {
  std::string_view rest;

  void space() {
    while (!rest.empty() && strchr(" \t\r\n", rest.front()) != nullptr && rest.front() != '\0') {
      rest.remove_prefix(1);
    }
  }

  bool take(char c) {
    space();
    if (rest.empty() || rest.front() != c) return false;
    rest.remove_prefix(1);
    return true;
  }

  bool string(std::string_view* raw) {
    space();
    const char* begin = rest.data();
    if (!take('"')) return false;
    while (!rest.empty()) {
      const char c = rest.front();
      if (c == '\\' && rest.size() > 1) rest.remove_prefix(1);
      rest.remove_prefix(1);
      if (c == '"') {
        *raw = {begin, static_cast<size_t>(rest.data() - begin)};
        return true;
      }
    }
    return false;
  }

  // Skips one value; `raw` is its text.
  bool value(std::string_view* raw, int depth) {
    space();
    if (rest.empty() || depth > kMaxDepth) return false;
    const char* begin = rest.data();
    std::string_view ignored;
    bool good = false;
    if (rest.front() == '"') {
      good = string(&ignored);
    } else if (rest.front() == '{' || rest.front() == '[') {
      good = container(rest.front() == '{', depth);
    } else {
      while (!rest.empty() && strchr(",]} \t\r\n", rest.front()) == nullptr) rest.remove_prefix(1);
      good = rest.data() != begin;
    }
    *raw = {begin, static_cast<size_t>(rest.data() - begin)};
    return good;
  }

  bool container(bool object, int depth) {
    rest.remove_prefix(1);
    const char close = object ? '}' : ']';
    if (take(close)) return true;
    std::string_view ignored;
    do {
      if (object && (!string(&ignored) || !take(':'))) return false;
      if (!value(&ignored, depth + 1)) return false;
    } while (take(','));
    return take(close);
  }
};

}  // namespace

std::string_view json_member(std::string_view json, std::string_view key) {
  Scanner scanner{json};
  if (!scanner.take('{') || scanner.take('}')) return {};
  do {
    std::string_view name;
    std::string_view value;
    if (!scanner.string(&name) || !scanner.take(':') || !scanner.value(&value, 0)) return {};
    if (json_string(name) == key) return value;
  } while (scanner.take(','));
  return {};
}

std::string_view json_string(std::string_view raw) {
  if (raw.size() < 2 || raw.front() != '"' || memchr(raw.data(), '\\', raw.size()) != nullptr) return {};
  return {raw.data() + 1, raw.size() - 2};
}

int64_t json_number(std::string_view raw, int64_t fallback) {
  if (!raw.empty() && raw.front() == '"') raw = json_string(raw);
  const bool negative = !raw.empty() && raw.front() == '-';
  if (negative) raw.remove_prefix(1);
  if (raw.empty() || raw.size() > 18 + 1) return fallback;
  int64_t value = 0;
  for (const char c : raw) {
    if (c < '0' || c > '9' || value > INT64_MAX / 10 - 1) return fallback;
    value = value * 10 + (c - '0');
  }
  return negative ? -value : value;
}

}  // namespace isopod::monitor
