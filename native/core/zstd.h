// A zstd decompressor over chunks: several frames in a row, skippable frames and windows up to 128
// MiB, which is what the zstd command makes at its highest level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"

struct ZSTD_DCtx_s;

namespace isopod::core {

class ZstdStream {
 public:
  static Result<std::unique_ptr<ZstdStream>> open();

  struct Progress {
    size_t consumed;
    size_t produced;
    bool complete;  // at the end of a frame, nothing is missing
  };
  Result<Progress> inflate(const uint8_t* input, size_t input_size, uint8_t* output,
                           size_t output_size);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

}  // namespace isopod::core
