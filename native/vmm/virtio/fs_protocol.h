// Between the virtual machine monitor and the file-system server, over one SOCK_SEQPACKET pair.
//
// virtio-fs carries FUSE messages. Those that move file contents are performed by the monitor
// itself, straight into guest memory, on descriptors that the server gave it; all others are
// *metadata* and are copied to the server, which never sees guest memory, and back.
//
// Each packet is exactly one FUSE message, as <linux/fuse.h> has it:
//   request: fuse_in_header + arguments; header.len == the packet's size <= kFsPacket
//   reply:   fuse_out_header + data; header.len == the packet's size <= kFsPacket
// Host byte order and the guest's are the same (little-endian).
//
// - `unique` is the monitor's, not the guest's (a hostile guest may use one number twice). The
//   server gives it back and draws no other meaning from it. Replies come in any order.
// - `error` is 0 or -errno, never positive, never below -511; with an error there is no data.
// - OPEN and CREATE: a reply without error carries one descriptor (SCM_RIGHTS), the opened file;
//   no other reply carries any. It must be a regular file, opened with the access mode asked for,
//   without O_DIRECT (guest buffers have no alignment). The
//   server keeps no state of an open file and closes its own descriptor after sending;
//   fuse_open_out.fh is then ignored: file handles are the monitor's.
// - Hence these never reach the server: READ, WRITE, FLUSH, RELEASE, FSYNC, LSEEK, FALLOCATE,
//   COPY_FILE_RANGE (the handles say which file; nodeid is not looked at), and INTERRUPT (requests
//   are short). In GETATTR and SETATTR the monitor clears FUSE_GETATTR_FH and FATTR_FH with their
//   fh: the server works on nodeid (it may change what the caller may not: the guest's kernel has
//   checked the open).
// - Handles of directories are the server's: OPENDIR's fh comes back in READDIR, READDIRPLUS,
//   RELEASEDIR and FSYNCDIR untouched.
// - FORGET and BATCH_FORGET have no reply. Everything else has exactly one, opcodes unknown to the
//   server too (-ENOSYS).
// - The monitor lowers `size` of READDIR, READDIRPLUS, GETXATTR and LISTXATTR to kFsReplyData. A
//   request that does not fit a packet is answered with -E2BIG by the monitor itself.
// - INIT begins a new session: whatever the server remembers of an earlier one (inodes, directory
//   handles) is dropped before the reply. A guest that is reset or restarts sends no DESTROY.
//   max_write and max_pages may be larger than a packet: they are about WRITE and READ.
// - Orderly packets only: on one that is none (size, header.len) either side closes the socket.
//   Server gone: requests get -EIO from then on. Monitor gone (EOF): the server exits.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

namespace isopod::vmm::virtio {

constexpr size_t kFsPacket = size_t{128} << 10;
constexpr uint32_t kFsReplyData = kFsPacket - sizeof(fuse_out_header);
// Both ends set SO_SNDBUF to at least this, so that a packet of the full size passes.
constexpr int kFsSocketBuffer = 4 * static_cast<int>(kFsPacket);
constexpr int kFsMaxErrno = 511;

}  // namespace isopod::vmm::virtio
