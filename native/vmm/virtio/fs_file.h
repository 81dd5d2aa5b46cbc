// What the monitor does itself with an open file: contents go between the file and guest memory,
// no other process and no copy between. Any thread.
#pragma once

#include <linux/fuse.h>

#include <vector>

#include "vmm/virtio/fs_handles.h"
#include "vmm/virtio/queue.h"

namespace isopod::vmm::virtio {

constexpr size_t kFsMaxTransfer = size_t{1} << 20;  // one READ or WRITE: max_pages of 256

// READ, WRITE, FLUSH, RELEASE, FSYNC, LSEEK, FALLOCATE or COPY_FILE_RANGE, with its arguments read
// once.
union FsArguments {
  fuse_read_in read;
  fuse_write_in write;
  fuse_flush_in flush;
  fuse_release_in release;
  fuse_fsync_in fsync;
  fuse_lseek_in lseek;
  fuse_fallocate_in fallocate;
  fuse_copy_file_range_in copy;
};

struct FsFileRequest {
  uint32_t opcode = 0;
  FsArguments arguments{};
  FsHandles::File file;
  FsHandles::File target;  // COPY_FILE_RANGE
};

// What goes into fuse_out_header and after it.
struct FsFileReply {
  int error = 0;       // -errno
  uint32_t bytes = 0;  // READ: in the chain already
  uint32_t body = 0;   // else: so much of `data`
  uint64_t data = 0;
};

// Bytes of the arguments that follow fuse_in_header; 0: the opcode is none of these.
size_t fs_arguments_size(uint32_t opcode);
// The handle that the arguments begin with, in all of them.
uint64_t fs_handle(const FsArguments& arguments);

FsFileReply perform(const FsFileRequest& request, const Chain& chain);

}  // namespace isopod::vmm::virtio
