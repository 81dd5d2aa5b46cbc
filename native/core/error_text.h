// How an Error reads: `mounting "proc" at "/proc": operation not permitted`.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "core/report.h"

namespace isopod::core {

// The step's word ("mount") of a plan op or of a launcher's step; "launch" for an unknown one.
const char* step_of(uint32_t op);
// The whole text: lower case, no full stop.
std::string text_of(const Error& error);
// "EPERM"; "" for 0.
std::string errno_name(int err);
// The errdefs word: the error's own, else its errno's.
const char* code_of(const Error& error);
// What the stub reported, as an Error.
Error error_of(const plan::Report& report);

}  // namespace isopod::core
