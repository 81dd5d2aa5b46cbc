// Memory files: plans, and the init stub's image.
#pragma once

#include <cstddef>

#include "base/fd.h"
#include "base/result.h"

namespace isopod::core {

// A memfd with `size` bytes of `data`, offset 0. Never executable.
Result<UniqueFd> data_file(const char* name, const void* data, size_t size);
// An image that can be executed and that nobody can write: a sealed memfd of mode 0511
// (CVE-2019-5736), or, where vm.memfd_noexec forbids that, a file on a tmpfs of its own that was
// made read-only.
Result<UniqueFd> executable_file(const char* name, const void* data, size_t size);
// The init stub that the program carries, sealed at first use. Set once, before the first launch.
void set_init_image(const void* data, size_t size);
// Borrowed, lives for ever; the error is repeated to every caller.
Result<int> init_image();

}  // namespace isopod::core
