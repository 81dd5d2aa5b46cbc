// The file-system device between a guest and a server; the test is both.
#include "vmm/virtio/fs.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "virtio/file.h"
#include "virtio/guest.h"

namespace isopod::vmm::virtio::test {
namespace {

template <typename T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

struct Share {
  explicit Share(size_t max_handles = 8) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) abort();
    server.reset(pair[1]);
    FsOptions options;
    options.server.reset(pair[0]);
    options.tag = "share";
    options.max_handles = max_handles;
    options.gone = [this] { gone++; };
    auto made = Fs::create(loop, std::move(options));
    if (!made) abort();
    device = std::move(*made);
    guest = std::make_unique<Guest>(*device, &loop);
    guest->start(kFeatureVersion1);
  }

  // A request of the guest's; the place of its reply.
  Range ask(uint32_t opcode, const std::string& arguments, uint32_t room = 4096,
            uint64_t unique = 42, unsigned queue = 1) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + arguments.size());
    header.opcode = opcode;
    header.unique = unique;
    header.nodeid = 1;
    std::vector<Range> readable{guest->buffer_of(header)};
    if (!arguments.empty()) readable.push_back(guest->buffer_of(arguments));
    std::vector<Range> writable;
    const Range out = guest->buffer(room + 16);
    if (room > 0) writable = {out};
    guest->add(queue, readable, writable);
    guest->kick(queue);
    return out;
  }
  // What the server got; its header in `seen`. Empty: nothing.
  std::string got() {
    std::string bytes(kFsPacket, '\0');
    const ssize_t n = ::recv(server.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n < 0) return "";
    memcpy(&seen, bytes.data(), sizeof(seen));
    CHECK(seen.len == static_cast<uint32_t>(n));
    return bytes.substr(sizeof(seen), static_cast<size_t>(n) - sizeof(seen));
  }
  void send(const std::string& packet, int fd = -1) {
    iovec piece{const_cast<char*>(packet.data()), packet.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      cmsghdr* part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int));
      memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    }
    if (::sendmsg(server.get(), &message, MSG_NOSIGNAL) < 0) abort();
    loop.settle();
  }
  void answer(int32_t error, const std::string& data, int fd = -1) {
    fuse_out_header header{static_cast<uint32_t>(sizeof(header) + data.size()), error, seen.unique};
    send(bytes_of(header) + data, fd);
  }
  // The reply's error; what follows in `data`. 1: there is none yet.
  int reply(Range out) {
    const auto used = guest->used(1);
    if (used.empty()) return 1;
    CHECK(used.size() == 1);
    const auto header = guest->value<fuse_out_header>(out);
    CHECK(header.unique == 42);
    CHECK(header.len == used[0].length);
    data = guest->text({out.address + 16, 0}, header.len - 16);
    return header.error;
  }
  int wait_reply(Range out) {
    int error = 1;
    loop.until([&] { return (error = reply(out)) != 1; });
    return error;
  }
  // An open file; its handle.
  uint64_t open(UniqueFd file) {
    const Range out = ask(FUSE_OPEN, bytes_of(fuse_open_in{}));
    got();
    fuse_open_out opened{};
    opened.fh = 99999;
    opened.open_flags = FOPEN_KEEP_CACHE;
    answer(0, bytes_of(opened), file.get());
    CHECK(reply(out) == 0);
    memcpy(&opened, data.data(), sizeof(opened));
    CHECK(opened.open_flags == FOPEN_KEEP_CACHE);
    return opened.fh;
  }
  Range read(uint64_t handle, uint64_t offset, uint32_t size, uint32_t room = 4096) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return ask(FUSE_READ, bytes_of(in), room);
  }
  Range write(uint64_t handle, uint64_t offset, const std::string& text, uint32_t size) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return ask(FUSE_WRITE, bytes_of(in) + text);
  }

  TestLoop loop;
  UniqueFd server;
  std::unique_ptr<Fs> device;
  std::unique_ptr<Guest> guest;
  fuse_in_header seen{};
  std::string data;
  int gone = 0;
};

TEST("fs: says what it is") {
  Share share;
  CHECK(share.guest->config<uint32_t>(0) == 0x72616873);  // "shar"
  CHECK(share.guest->config<uint32_t>(36) == 1);
  TestLoop loop;
  FsOptions options;
  options.tag = std::string(37, 't');
  CHECK(!Fs::create(loop, std::move(options)));
}

TEST("fs: a request goes to the server, and its reply back") {
  Share share;
  const Range out = share.ask(FUSE_LOOKUP, std::string("name\0", 5));
  CHECK(share.got() == std::string("name\0", 5));
  CHECK(share.seen.opcode == FUSE_LOOKUP && share.seen.nodeid == 1);
  CHECK(share.seen.unique != 42);
  CHECK(share.reply(out) == 1);
  share.answer(0, std::string(128, 'e'));
  CHECK(share.reply(out) == 0);
  CHECK(share.data == std::string(128, 'e'));
  const Range none = share.ask(FUSE_LOOKUP, std::string("none\0", 5));
  share.got();
  share.answer(-ENOENT, "");
  CHECK(share.reply(none) == -ENOENT);
}

TEST("fs: replies come in any order, two requests may have one number") {
  Share share;
  const Range a = share.ask(FUSE_STATFS, "");
  share.got();
  const fuse_in_header first = share.seen;
  const Range b = share.ask(FUSE_READLINK, "");
  share.got();
  CHECK(first.unique != share.seen.unique);
  share.answer(0, "second");
  CHECK(share.reply(b) == 0 && share.data == "second");
  share.seen = first;
  share.answer(0, "first");
  CHECK(share.reply(a) == 0 && share.data == "first");
}

TEST("fs: forget has no reply, interrupt goes nowhere") {
  Share share;
  share.ask(FUSE_FORGET, bytes_of(fuse_forget_in{7}), 0, 42, 0);
  CHECK(share.got() == bytes_of(fuse_forget_in{7}));
  CHECK(share.guest->used(0).size() == 1);
  share.ask(FUSE_INTERRUPT, bytes_of(fuse_interrupt_in{42}), 0, 42, 0);
  CHECK(share.got().empty());
  CHECK(share.guest->used(0).size() == 1);
}

TEST("fs: contents of an open file do not pass the server") {
  Share share;
  UniqueFd file = memory_file("0123456789");
  const int fd = file.get();
  UniqueFd mine(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  const uint64_t handle = share.open(std::move(file));
  CHECK(share.device->open_files() == 1);
  CHECK(share.wait_reply(share.read(handle, 2, 5)) == 0);
  CHECK(share.data == "23456");
  CHECK(share.wait_reply(share.read(handle, 8, 5)) == 0);
  CHECK(share.data == "89");
  CHECK(share.wait_reply(share.read(handle, 10, 5)) == 0);
  CHECK(share.data.empty());
  // No more than there is room for.
  CHECK(share.wait_reply(share.read(handle, 0, 100, 3)) == 0);
  CHECK(share.data == "012");

  CHECK(share.wait_reply(share.write(handle, 4, "abc", 3)) == 0);
  CHECK(share.data == bytes_of(fuse_write_out{3, 0}));
  CHECK(contents_of(mine.get(), 0, 20) == "0123abc789");

  CHECK(share.wait_reply(share.ask(FUSE_FSYNC, bytes_of(fuse_fsync_in{handle, 1, 0}))) == 0);
  CHECK(share.wait_reply(share.ask(FUSE_FLUSH, bytes_of(fuse_flush_in{handle, 0, 0, 0}))) == 0);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 4096;
  CHECK(share.wait_reply(share.ask(FUSE_FALLOCATE, bytes_of(allocate))) == 0);
  struct stat info {};
  ::fstat(mine.get(), &info);
  CHECK(info.st_size == 4096);
  fuse_lseek_in seek{};
  seek.fh = handle;
  seek.whence = SEEK_DATA;
  CHECK(share.wait_reply(share.ask(FUSE_LSEEK, bytes_of(seek))) == 0);
  CHECK(share.data == std::string(8, '\0'));
  seek.whence = SEEK_END;
  CHECK(share.wait_reply(share.ask(FUSE_LSEEK, bytes_of(seek))) == -EINVAL);

  const uint64_t other = share.open(memory_file(""));
  fuse_copy_file_range_in copy{};
  copy.fh_in = handle;
  copy.fh_out = other;
  copy.len = 10;
  const int copied = share.wait_reply(share.ask(FUSE_COPY_FILE_RANGE, bytes_of(copy)));
  CHECK(copied == 0);
  CHECK(share.wait_reply(share.read(other, 0, 20)) == 0);
  CHECK(share.data == "0123abc789");

  CHECK(share.got().empty());
  CHECK(share.wait_reply(share.ask(FUSE_RELEASE, bytes_of(fuse_release_in{handle, 0, 0, 0}))) == 0);
  CHECK(share.device->open_files() == 1);
}

TEST("fs: handles that are none, or no longer") {
  Share share;
  const uint64_t handle = share.open(memory_file("old"));
  CHECK(share.wait_reply(share.ask(FUSE_RELEASE, bytes_of(fuse_release_in{handle, 0, 0, 0}))) == 0);
  const uint64_t fresh = share.open(memory_file("new"));
  CHECK(static_cast<uint32_t>(fresh) == static_cast<uint32_t>(handle));  // the same place
  for (const uint64_t bad : {handle, uint64_t{0}, UINT64_MAX, fresh + 1, uint64_t{99999}}) {
    CHECK(share.wait_reply(share.read(bad, 0, 5)) == -EBADF);
    CHECK(share.wait_reply(share.ask(FUSE_RELEASE, bytes_of(fuse_release_in{bad, 0, 0, 0}))) ==
          -EBADF);
  }
  CHECK(share.wait_reply(share.read(fresh, 0, 5)) == 0);
  CHECK(share.data == "new");
}

TEST("fs: sizes and offsets that do not fit") {
  Share share;
  const uint64_t handle = share.open(memory_file("data"));
  CHECK(share.wait_reply(share.read(handle, UINT64_MAX, 5)) == -EINVAL);
  CHECK(share.wait_reply(share.write(handle, 0, "abc", 4)) == -EINVAL);  // one more than there is
  CHECK(share.wait_reply(share.write(handle, 0, "abc", UINT32_MAX)) == -EINVAL);
  CHECK(share.wait_reply(share.write(handle, UINT64_MAX - 1, "abc", 3)) == -EINVAL);
  CHECK(share.wait_reply(share.ask(FUSE_READ, "short")) == -EINVAL);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.mode = FALLOC_FL_COLLAPSE_RANGE;
  CHECK(share.wait_reply(share.ask(FUSE_FALLOCATE, bytes_of(allocate))) == -EOPNOTSUPP);
  CHECK(share.wait_reply(share.ask(FUSE_SETXATTR, std::string(kFsPacket, 'x'))) == -E2BIG);
  CHECK(share.got().empty());
}

TEST("fs: no more files than allowed are open") {
  Share share(2);
  const uint64_t handle = share.open(memory_file(""));
  const Range pending = share.ask(FUSE_OPEN, bytes_of(fuse_open_in{}));
  share.got();
  CHECK(share.reply(share.ask(FUSE_OPEN, bytes_of(fuse_open_in{}))) == -ENFILE);
  CHECK(share.got().empty());  // not opened and then thrown away
  share.answer(-EACCES, "");
  CHECK(share.reply(pending) == -EACCES);
  share.open(memory_file(""));
  CHECK(share.wait_reply(share.ask(FUSE_RELEASE, bytes_of(fuse_release_in{handle, 0, 0, 0}))) == 0);
  share.open(memory_file(""));
}

TEST("fs: what the server opens must be a regular file") {
  Share share;
  int pipe[2];
  CHECK(::pipe2(pipe, O_CLOEXEC) == 0);
  Range out = share.ask(FUSE_OPEN, bytes_of(fuse_open_in{}));
  share.got();
  share.answer(0, bytes_of(fuse_open_out{}), pipe[0]);
  CHECK(share.reply(out) == -EIO);
  out = share.ask(FUSE_OPEN, bytes_of(fuse_open_in{}));
  share.got();
  share.answer(0, bytes_of(fuse_open_out{}));  // no file at all
  CHECK(share.reply(out) == -EIO);
  CHECK(share.device->open_files() == 0);
  // A descriptor nobody asked for is closed.
  out = share.ask(FUSE_STATFS, "");
  share.got();
  share.answer(0, "ok", pipe[1]);
  CHECK(share.reply(out) == 0);
  ::close(pipe[1]);
  char byte;
  CHECK(::read(pipe[0], &byte, 1) == 0);
  ::close(pipe[0]);
}

TEST("fs: created files are handles, too; requests lose what is not the server's affair") {
  Share share;
  Range out = share.ask(FUSE_CREATE, bytes_of(fuse_create_in{}) + std::string("f\0", 2));
  share.got();
  fuse_entry_out entry{};
  entry.nodeid = 5;
  share.answer(0, bytes_of(entry) + bytes_of(fuse_open_out{}), memory_file("c").get());
  CHECK(share.reply(out) == 0);
  fuse_open_out opened;
  memcpy(&opened, share.data.data() + sizeof(entry), sizeof(opened));
  CHECK(share.wait_reply(share.read(opened.fh, 0, 5)) == 0);
  CHECK(share.data == "c");

  fuse_getattr_in attributes{};
  attributes.getattr_flags = FUSE_GETATTR_FH;
  attributes.fh = opened.fh;
  share.ask(FUSE_GETATTR, bytes_of(attributes));
  CHECK(share.got() == bytes_of(fuse_getattr_in{}));
  fuse_setattr_in set{};
  set.valid = FATTR_FH | FATTR_SIZE;
  set.fh = opened.fh;
  share.ask(FUSE_SETATTR, bytes_of(set));
  set.valid = FATTR_SIZE;
  set.fh = 0;
  CHECK(share.got() == bytes_of(set));
  fuse_read_in list{};
  list.size = UINT32_MAX;
  share.ask(FUSE_READDIR, bytes_of(list), 1 << 20);
  const std::string seen = share.got();
  memcpy(&list, seen.data(), sizeof(list));
  CHECK(list.size == kFsReplyData);
}

TEST("fs: a reply larger than the guest's buffer") {
  Share share;
  const Range out = share.ask(FUSE_READLINK, "", 16);
  share.got();
  share.answer(0, std::string(17, 'x'));
  CHECK(share.reply(out) == -EIO);
}

TEST("fs: a server that goes away, or talks nonsense") {
  const std::string bad[] = {"",
                             "short",
                             bytes_of(fuse_out_header{17, 0, 0}),
                             bytes_of(fuse_out_header{16, 5, 0}),
                             bytes_of(fuse_out_header{16, -5000, 0}),
                             bytes_of(fuse_out_header{18, -5, 0}) + "xx"};
  for (const std::string& packet : bad) {
    Share share;
    const Range out = share.ask(FUSE_STATFS, "");
    share.got();
    if (packet.empty())
      share.server.reset();
    else
      share.send(packet);
    share.loop.settle();
    CHECK(share.reply(out) == -EIO);
    CHECK(share.gone == 1);
    CHECK(share.reply(share.ask(FUSE_STATFS, "")) == -EIO);
    CHECK(share.guest->status() == 0xf);
  }
}

TEST("fs: a late answer fits no request after a reset") {
  Share share;
  share.ask(FUSE_STATFS, "");
  share.got();
  const fuse_in_header before = share.seen;
  share.guest->reset();
  share.guest->start(kFeatureVersion1);
  const Range out = share.ask(FUSE_STATFS, "");
  share.got();
  const fuse_in_header after = share.seen;
  share.seen = before;
  share.answer(0, "late");
  CHECK(share.reply(out) == 1);
  share.seen = after;
  share.answer(0, "right");
  CHECK(share.reply(out) == 0 && share.data == "right");
  CHECK(share.gone == 0);
}

TEST("fs: a server that does not read makes requests wait, in order") {
  Share share;
  std::vector<Range> outs;
  const std::string name(60000, 'n');
  for (int i = 0; i < 20; i++) outs.push_back(share.ask(FUSE_UNLINK, name));
  CHECK(share.loop.watched() == 3);
  for (int i = 0; i < 20; i++) {
    share.loop.settle();
    CHECK(share.got() == name);
    share.answer(0, "");
    CHECK(share.reply(outs[static_cast<size_t>(i)]) == 0);
  }
  share.loop.settle();
}

TEST("fs: chains that are no request break the rules") {
  Share share;
  share.guest->add(1, {share.guest->buffer(39)}, {share.guest->buffer(64)});
  share.guest->kick(1);
  CHECK(share.guest->status() == 0x4f);
  Share other;
  fuse_in_header header{};
  header.len = sizeof(header);
  header.opcode = FUSE_STATFS;
  other.guest->add(1, {other.guest->buffer_of(header)}, {other.guest->buffer(15)});
  other.guest->kick(1);
  CHECK(other.guest->status() == 0x4f);
  Share lying;
  header.len = 41;
  lying.guest->add(1, {lying.guest->buffer_of(header)}, {lying.guest->buffer(16)});
  lying.guest->kick(1);
  CHECK(lying.guest->used(1).size() == 1);
  CHECK(lying.got().empty());
}

TEST("threads: a share is reset while its workers read and write") {
  Share share;
  for (int round = 0; round < 30; round++) {
    const uint64_t handle = share.open(memory_file(std::string(200000, 'r')));
    for (int i = 0; i < 6; i++) {
      share.read(handle, 0, 100000, 100000);
      share.write(handle, 0, "w", 1);
    }
    share.ask(FUSE_RELEASE, bytes_of(fuse_release_in{handle, 0, 0, 0}));
    share.guest->reset();
    const Range late{kBuffers, 8 << 20};
    memset(share.guest->at(late.address, late.size), 0x5a, late.size);
    share.loop.settle();
    CHECK(share.guest->text(late, late.size).find_first_not_of('\x5a') == std::string::npos);
    share.guest->start(kFeatureVersion1);
    share.guest->reset_buffers();
  }
  CHECK(share.device->open_files() == 0);
}

}  // namespace
}  // namespace isopod::vmm::virtio::test
