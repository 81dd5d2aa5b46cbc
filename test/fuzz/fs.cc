// Requests of a hostile guest, answered by a hostile server. Oracle: handles are bounded, replies
// say their length, nothing is left open after a reset.
#include "vmm/virtio/fs.h"

#include <sys/socket.h>

#include "chains.h"
#include "oracle.h"
#include "virtio/file.h"

using fuzz::Input;
using namespace isopod::vmm::virtio;
using namespace isopod::vmm::virtio::test;

namespace {

void answer(Input& input, int server) {
  std::string request(kFsPacket, '\0');
  const ssize_t n = ::recv(server, request.data(), request.size(), MSG_DONTWAIT);
  if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
  fuse_in_header asked;
  memcpy(&asked, request.data(), sizeof(asked));
  MUST(asked.len == static_cast<uint32_t>(n));
  MUST(fs_arguments_size(asked.opcode) == 0 && asked.opcode != FUSE_INTERRUPT);
  fuse_out_header header{};
  header.unique = asked.unique;
  const uint8_t twist = input.byte();
  header.error = twist < 32 ? -static_cast<int32_t>(twist) : 0;
  std::string body = header.error != 0 ? "" : std::string(input.below(200), 'b');
  if (twist >= 200) body.assign(sizeof(fuse_entry_out) + sizeof(fuse_open_out), '\0');
  header.len = static_cast<uint32_t>(sizeof(header) + body.size());
  if (twist == 32) header.len = input.take<uint32_t>();
  if (twist == 33) header.unique = input.take<uint64_t>();
  if (twist == 34) header.error = input.take<int32_t>();
  std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
  packet += body;
  iovec piece{packet.data(), packet.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  isopod::UniqueFd file;
  if (twist >= 150) {
    file = memory_file("contents");
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = file.get();
    memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  }
  (void)::sendmsg(server, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  int pair[2];
  MUST(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  isopod::UniqueFd server(pair[1]);
  TestLoop loop;
  FsOptions options;
  options.server.reset(pair[0]);
  options.tag = "fuzz";
  options.max_handles = 3;
  options.threads = 1;
  auto made = Fs::create(loop, std::move(options));
  MUST(bool(made));
  Guest guest(**made, &loop);
  guest.start(kFeatureVersion1, 32);
  for (int step = 0; step < 40 && !input.empty() && guest.status() == 0xf; step++) {
    if (input.below(3) == 0) {
      answer(input, server.get());
      loop.settle();
      MUST((*made)->open_files() <= 3);
      continue;
    }
    fuse_in_header header{};
    header.opcode = input.below(56);
    header.unique = input.byte();
    std::string body = input.bytes(input.below(96));
    // Handles as they are given out: {place, generation}.
    if (body.size() >= 8 && input.below(2) == 0) {
      const uint64_t handle = uint64_t{input.below(4)} << 32 | input.below(3);
      memcpy(body.data(), &handle, sizeof(handle));
    }
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    if (input.below(32) == 0) header.len = input.take<uint32_t>();
    std::string request(reinterpret_cast<const char*>(&header), sizeof(header));
    request += body;
    if (input.below(32) == 0) request.resize(1 + input.below(40));
    fuzz::offer(guest, input.below(2), request, 1 + input.below(4), input.below(3),
                1 + input.below(200));
  }
  guest.reset();
  MUST((*made)->open_files() == 0);
  return 0;
}
