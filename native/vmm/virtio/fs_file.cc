#include "vmm/virtio/fs_file.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/virtio/iovecs.h"

namespace isopod::vmm::virtio {

namespace {

// Copying a large file takes as long as it takes: the caller goes on where we stopped.
constexpr uint64_t kMaxCopy = uint64_t{16} << 20;
constexpr uint32_t kDataOnly = 1;  // FUSE_FSYNC_FDATASYNC, named so since 7.38

FsFileReply fail(int err) {
  FsFileReply reply;
  reply.error = -err;
  return reply;
}

FsFileReply outcome(long result) { return result < 0 ? fail(errno) : FsFileReply{}; }

FsFileReply with_size(size_t bytes) {
  FsFileReply reply;
  reply.data = bytes;  // fuse_write_out {size, padding}
  reply.body = sizeof(fuse_write_out);
  return reply;
}

bool is_offset(uint64_t value) { return value <= INT64_MAX; }

FsFileReply read(const FsFileRequest& request, const Chain& chain) {
  const fuse_read_in& in = request.arguments.read;
  if (!is_offset(in.offset)) return fail(EINVAL);
  const size_t room = chain.writable_bytes - sizeof(fuse_out_header);
  std::vector<iovec> pieces;
  slice(chain.writable, sizeof(fuse_out_header), std::min({room, size_t{in.size}, kFsMaxTransfer}),
        pieces);
  const ssize_t n = ::preadv(request.file->get(), pieces.data(), static_cast<int>(pieces.size()),
                             static_cast<off_t>(in.offset));
  if (n < 0) return fail(errno);
  FsFileReply reply;
  reply.bytes = static_cast<uint32_t>(n);
  return reply;
}

FsFileReply write(const FsFileRequest& request, const Chain& chain) {
  const fuse_write_in& in = request.arguments.write;
  constexpr size_t kStart = sizeof(fuse_in_header) + sizeof(fuse_write_in);
  if (!is_offset(in.offset) || in.size > chain.readable_bytes - kStart || in.size > kFsMaxTransfer)
    return fail(EINVAL);
  std::vector<iovec> pieces;
  slice(chain.readable, kStart, in.size, pieces);
  const ssize_t n = ::pwritev(request.file->get(), pieces.data(), static_cast<int>(pieces.size()),
                              static_cast<off_t>(in.offset));
  return n < 0 ? fail(errno) : with_size(static_cast<size_t>(n));
}

// close() reports what writing back could not: to a copy of the descriptor, for the file stays
// open.
FsFileReply flush(const FsFileRequest& request) {
  const int copy = ::fcntl(request.file->get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail(errno);
  return outcome(::close(copy));
}

FsFileReply seek(const FsFileRequest& request) {
  const fuse_lseek_in& in = request.arguments.lseek;
  // Others are the guest's own affair; the position of our descriptor means nothing.
  if (!is_offset(in.offset) || (in.whence != SEEK_DATA && in.whence != SEEK_HOLE))
    return fail(EINVAL);
  const off_t found =
      ::lseek(request.file->get(), static_cast<off_t>(in.offset), static_cast<int>(in.whence));
  if (found < 0) return fail(errno);
  FsFileReply reply;
  reply.data = static_cast<uint64_t>(found);
  reply.body = sizeof(fuse_lseek_out);
  return reply;
}

FsFileReply allocate(const FsFileRequest& request) {
  const fuse_fallocate_in& in = request.arguments.fallocate;
  constexpr uint32_t kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if ((in.mode & ~kKnown) != 0) return fail(EOPNOTSUPP);
  if (!is_offset(in.offset) || !is_offset(in.length)) return fail(EINVAL);
  return outcome(::fallocate(request.file->get(), static_cast<int>(in.mode),
                             static_cast<off_t>(in.offset), static_cast<off_t>(in.length)));
}

FsFileReply copy(const FsFileRequest& request) {
  const fuse_copy_file_range_in& in = request.arguments.copy;
  if (in.flags != 0 || !is_offset(in.off_in) || !is_offset(in.off_out)) return fail(EINVAL);
  auto from = static_cast<off_t>(in.off_in);
  auto to = static_cast<off_t>(in.off_out);
  const ssize_t n = ::copy_file_range(request.file->get(), &from, request.target->get(), &to,
                                      std::min(in.len, kMaxCopy), 0);
  return n < 0 ? fail(errno) : with_size(static_cast<size_t>(n));
}

}  // namespace

size_t fs_arguments_size(uint32_t opcode) {
  switch (opcode) {
    case FUSE_READ:
      return sizeof(fuse_read_in);
    case FUSE_WRITE:
      return sizeof(fuse_write_in);
    case FUSE_FLUSH:
      return sizeof(fuse_flush_in);
    case FUSE_RELEASE:
      return sizeof(fuse_release_in);
    case FUSE_FSYNC:
      return sizeof(fuse_fsync_in);
    case FUSE_LSEEK:
      return sizeof(fuse_lseek_in);
    case FUSE_FALLOCATE:
      return sizeof(fuse_fallocate_in);
    case FUSE_COPY_FILE_RANGE:
      return sizeof(fuse_copy_file_range_in);
    default:
      return 0;
  }
}

uint64_t fs_handle(const FsArguments& arguments) { return arguments.read.fh; }
static_assert(offsetof(fuse_read_in, fh) == 0 && offsetof(fuse_write_in, fh) == 0 &&
              offsetof(fuse_flush_in, fh) == 0 && offsetof(fuse_release_in, fh) == 0 &&
              offsetof(fuse_fsync_in, fh) == 0 && offsetof(fuse_lseek_in, fh) == 0 &&
              offsetof(fuse_fallocate_in, fh) == 0 &&
              offsetof(fuse_copy_file_range_in, fh_in) == 0);

FsFileReply perform(const FsFileRequest& request, const Chain& chain) {
  const int fd = request.file->get();
  switch (request.opcode) {
    case FUSE_READ:
      return read(request, chain);
    case FUSE_WRITE:
      return write(request, chain);
    case FUSE_FLUSH:
      return flush(request);
    case FUSE_FSYNC:
      return outcome((request.arguments.fsync.fsync_flags & kDataOnly) != 0 ? ::fdatasync(fd)
                                                                            : ::fsync(fd));
    case FUSE_LSEEK:
      return seek(request);
    case FUSE_FALLOCATE:
      return allocate(request);
    case FUSE_COPY_FILE_RANGE:
      return copy(request);
    default:
      return {};  // RELEASE: the handle is gone, and with the request the file is
  }
}

}  // namespace isopod::vmm::virtio
