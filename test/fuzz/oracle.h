// What must hold whatever the input: a failure is a crash that libFuzzer reports.
#pragma once

#include <cstdio>
#include <cstdlib>

#define MUST(condition)                                                          \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition); \
    std::abort();                                                                \
  }
