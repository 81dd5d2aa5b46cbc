#include "core/zstd.h"

#include <errno.h>
#include <zstd.h>

namespace isopod::core {

constexpr int kWindowLog = 27;

void ZstdStream::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

Result<std::unique_ptr<ZstdStream>> ZstdStream::open() {
  auto stream = std::make_unique<ZstdStream>();
  stream->context_.reset(ZSTD_createDCtx());
  if (!stream->context_) return failure(ENOMEM, "zstd", "");
  ZSTD_DCtx_setParameter(stream->context_.get(), ZSTD_d_windowLogMax, kWindowLog);
  return stream;
}

Result<ZstdStream::Progress> ZstdStream::inflate(const uint8_t* input, size_t input_size,
                                                 uint8_t* output, size_t output_size) {
  ZSTD_inBuffer in = {input, input_size, 0};
  ZSTD_outBuffer out = {output, output_size, 0};
  const size_t left = ZSTD_decompressStream(context_.get(), &out, &in);
  if (ZSTD_isError(left)) {
    return Error{EINVAL, "zstd stream", "", {}, ZSTD_getErrorName(left)};
  }
  return Progress{in.pos, out.pos, left == 0};
}

}  // namespace isopod::core
