// Test Anything Protocol on stdout, for the C++ test programs.
#pragma once

#include <cstdio>
#include <string>

namespace tap {

inline int tests = 0;
inline int failures = 0;

inline bool ok(bool good, const std::string& name) {
  tests++;
  if (!good) failures++;
  std::printf("%sok %d - %s\n", good ? "" : "not ", tests, name.c_str());
  std::fflush(stdout);
  return good;
}

template <typename A, typename B>
bool is(const A& got, const B& wanted, const std::string& name) {
  const bool good = got == wanted;
  ok(good, name);
  if constexpr (std::is_arithmetic_v<A> && std::is_arithmetic_v<B>) {
    if (!good)
      std::printf("# got %lld, wanted %lld\n", static_cast<long long>(got),
                  static_cast<long long>(wanted));
  } else if constexpr (std::is_convertible_v<A, std::string> &&
                       std::is_convertible_v<B, std::string>) {
    if (!good)
      std::printf("# got %s, wanted %s\n", std::string(got).c_str(), std::string(wanted).c_str());
  }
  return good;
}

inline int done() {
  std::printf("1..%d\n", tests);
  return failures == 0 ? 0 : 1;
}

}  // namespace tap
