// Test cases in C++: each a function with a title; results as TAP on stdout, so that node's runner
// can read them (test/native/virtio.test.ts).
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace check {

struct Case {
  const char* title;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* title, void (*run)()) { cases().push_back({title, run}); }
};

inline void fail(const char* file, int line, const char* what) {
  failures()++;
  std::printf("# %s:%d: %s\n", file, line, what);
}

// `program --list` names the cases; `program TITLE` runs one; without an argument all run.
inline int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  int ran = 0;
  int failed = 0;
  for (const Case& one : cases()) {
    if (wanted == "--list") {
      std::printf("%s\n", one.title);
      continue;
    }
    if (!wanted.empty() && wanted != one.title) continue;
    failures() = 0;
    one.run();
    ran++;
    if (failures() > 0) failed++;
    std::printf("%sok %d - %s\n", failures() > 0 ? "not " : "", ran, one.title);
    std::fflush(stdout);
  }
  if (wanted != "--list") std::printf("1..%d\n", ran);
  return failed > 0 || (ran == 0 && wanted != "--list") ? 1 : 0;
}

}  // namespace check

#define CHECK_JOIN2(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN2(a, b)
#define TEST(title)                                                                          \
  static void CHECK_JOIN(test_, __LINE__)();                                                 \
  static const check::Register CHECK_JOIN(register_, __LINE__)(title,                        \
                                                               CHECK_JOIN(test_, __LINE__)); \
  static void CHECK_JOIN(test_, __LINE__)()
#define CHECK(condition) \
  if (!(condition)) check::fail(__FILE__, __LINE__, #condition)
#define REQUIRE(condition) \
  if (!(condition)) return check::fail(__FILE__, __LINE__, #condition)
