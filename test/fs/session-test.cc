// The file-system server's handlers under AddressSanitizer and UBSan, fed as no kernel would feed
// them: TAP on stdout. The tree is the current directory; what lies beside it must stay as it is.
#include "fs/session.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <vector>

#include "vmm/virtio/fs_protocol.h"

namespace {

using isopod::UniqueFd;
using isopod::fs::Arguments;
using isopod::fs::Options;
using isopod::fs::Reply;
using isopod::fs::Session;
using isopod::vmm::virtio::kFsReplyData;

int g_tests = 0, g_failures = 0;

void ok(bool good, const std::string& name) {
  g_tests++;
  if (!good) g_failures++;
  printf("%sok %d - %s\n", good ? "" : "not ", g_tests, name.c_str());
}

class Packet {
 public:
  template <typename T>
  Packet& put(const T& value) {
    const auto* from = reinterpret_cast<const uint8_t*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
    return *this;
  }
  Packet& text(const std::string& value, bool terminated = true) {
    bytes.insert(bytes.end(), value.begin(), value.end());
    if (terminated) bytes.push_back(0);
    return *this;
  }
  std::vector<uint8_t> bytes;
};

struct Guest {
  explicit Guest(size_t inodes = 1000, const std::string& exclusive = "")
      : proc(open("/proc/self/fd", O_PATH | O_DIRECTORY)),
        session(UniqueFd(open(tree.c_str(), O_PATH | O_DIRECTORY)),
                Options{proc.get(), inodes, 64, exclusive}) {
    if (fchdir(proc.get()) < 0) abort();
    fuse_init_in in{};
    in.major = 7;
    in.minor = 36;
    in.flags = ~0u;
    call(FUSE_INIT, 0, Packet().put(in));
  }

  int call(uint32_t opcode, uint64_t node, const Packet& packet) {
    fuse_in_header header{};
    header.opcode = opcode;
    header.nodeid = node;
    // A copy of the exact size: a byte too far is a report.
    const std::vector<uint8_t> exact(packet.bytes);
    last = std::make_unique<Reply>(kFsReplyData);
    return session.handle(header, Arguments(exact.data(), exact.size()), *last);
  }
  template <typename T>
  T reply() const {
    T value{};
    if (last->size() >= sizeof value) memcpy(&value, last->data().data(), sizeof value);
    return value;
  }
  uint64_t lookup(uint64_t parent, const std::string& name) {
    if (call(FUSE_LOOKUP, parent, Packet().text(name)) != 0) return 0;
    return reply<fuse_entry_out>().nodeid;
  }

  static std::string tree;
  UniqueFd proc;
  Session session;
  std::unique_ptr<Reply> last;
};
std::string Guest::tree;

void names() {
  Guest guest;
  for (const char* name : {"..", ".", "", "/", "/etc/passwd", "../outside", "d/../..", "d/f"}) {
    const std::string told = std::string("\"") + name + "\"";
    ok(guest.call(FUSE_LOOKUP, 1, Packet().text(name)) == EINVAL, "LOOKUP refuses " + told);
    fuse_mkdir_in make{};
    ok(guest.call(FUSE_MKDIR, 1, Packet().put(make).text(name)) == EINVAL, "MKDIR refuses " + told);
    ok(guest.call(FUSE_UNLINK, 1, Packet().text(name)) == EINVAL, "UNLINK refuses " + told);
    fuse_create_in create{};
    create.flags = O_RDWR;
    ok(guest.call(FUSE_CREATE, 1, Packet().put(create).text(name)) == EINVAL,
       "CREATE refuses " + told);
    fuse_rename_in rename{1};
    ok(guest.call(FUSE_RENAME, 1, Packet().put(rename).text("f").text(name)) == EINVAL,
       "RENAME refuses " + told);
    fuse_link_in link{guest.lookup(1, "f")};
    ok(guest.call(FUSE_LINK, 1, Packet().put(link).text(name)) == EINVAL, "LINK refuses " + told);
  }
}

void links_are_not_followed() {
  Guest guest;
  const uint64_t out = guest.lookup(1, "out"), passwd = guest.lookup(1, "file-out");
  ok(out != 0 && passwd != 0, "a link is an inode");
  ok(guest.lookup(out, "secret") == 0, "nothing is looked up through it");
  fuse_open_in open{O_RDONLY, 0};
  ok(guest.call(FUSE_OPEN, passwd, Packet().put(open)) == EINVAL, "it is not opened");
  ok(guest.call(FUSE_OPENDIR, out, Packet().put(open)) == ENOTDIR, "nor read as a directory");
  fuse_create_in create{};
  create.flags = O_WRONLY | O_TRUNC;
  ok(guest.call(FUSE_CREATE, 1, Packet().put(create).text("file-out")) != 0 && !guest.last->file,
     "CREATE over it opens nothing");
  fuse_setattr_in set{};
  set.valid = FATTR_SIZE;
  ok(guest.call(FUSE_SETATTR, passwd, Packet().put(set)) == EINVAL, "its target is not truncated");
  set.valid = FATTR_MODE;
  set.mode = 0777;
  ok(guest.call(FUSE_SETATTR, passwd, Packet().put(set)) != 0, "nor its mode changed");
  fuse_mkdir_in make{};
  ok(guest.call(FUSE_MKDIR, out, Packet().put(make).text("x")) == ENOTDIR,
     "nothing is made through it");
}

// Whatever is swapped under a guest's feet: what is below a nodeid was never outside.
void swapped() {
  Guest guest;
  static std::atomic<bool> stop{false};
  static std::string base;
  base = Guest::tree;
  stop = false;
  pthread_t swapper;
  pthread_create(
      &swapper, nullptr,
      [](void*) -> void* {
        const std::string d = base + "/d", link = base + "/swap", kept = base + "/kept";
        symlink((base + "/../outside").c_str(), link.c_str());
        while (!stop) {
          rename(d.c_str(), kept.c_str());
          rename(link.c_str(), d.c_str());
          rename(d.c_str(), link.c_str());
          rename(kept.c_str(), d.c_str());
        }
        unlink(link.c_str());
        return nullptr;
      },
      nullptr);
  int leaked = 0;
  for (int i = 0; i < 3000; i++) {
    const uint64_t node = guest.lookup(1, "d");
    if (node == 0) continue;
    if (guest.lookup(node, "secret") != 0) leaked++;
    fuse_create_in create{};
    create.flags = O_RDWR;
    create.mode = 0600;
    guest.call(FUSE_CREATE, node, Packet().put(create).text("made"));
    guest.call(FUSE_FORGET, node, Packet().put(fuse_forget_in{1}));
  }
  stop = true;
  pthread_join(swapper, nullptr);
  ok(leaked == 0, "a directory swapped for a link leads nowhere");
}

void counts() {
  Guest guest(4);
  ok(guest.call(FUSE_GETATTR, 77, Packet().put(fuse_getattr_in{})) == ESTALE,
     "an unknown nodeid is stale");
  const uint64_t node = guest.lookup(1, "f");
  ok(guest.lookup(1, "f") == node && guest.session.inodes().size() == 1,
     "the same file is the same inode");
  guest.call(FUSE_FORGET, node, Packet().put(fuse_forget_in{1}));
  ok(guest.call(FUSE_GETATTR, node, Packet().put(fuse_getattr_in{})) == 0,
     "it is known until forgotten as often as told");
  guest.call(FUSE_FORGET, node, Packet().put(fuse_forget_in{~uint64_t{0}}));
  ok(guest.call(FUSE_GETATTR, node, Packet().put(fuse_getattr_in{})) == ESTALE,
     "more than it was told is all of it");
  guest.call(FUSE_FORGET, 1, Packet().put(fuse_forget_in{1000}));
  ok(guest.lookup(1, "f") != 0, "the root is never forgotten");
  fuse_batch_forget_in batch{1000000, 0};
  guest.call(FUSE_BATCH_FORGET, 1, Packet().put(batch).put(fuse_forget_one{99, 1}));
  ok(true, "a batch that promises more than it sends");
  for (int i = 0; i < 8; i++) guest.lookup(1, "n" + std::to_string(i));
  ok(guest.session.inodes().size() == 4, "no more inodes than allowed");
  ok(guest.call(FUSE_LOOKUP, 1, Packet().text("n7")) == ENFILE, "one too many is ENFILE");
  fuse_init_in in{};
  in.major = 7;
  in.minor = 31;
  ok(guest.call(FUSE_INIT, 0, Packet().put(in)) == 0 && guest.session.inodes().size() == 0,
     "INIT begins anew");
  in.minor = 12;
  ok(guest.call(FUSE_INIT, 0, Packet().put(in)) == EPROTO, "a guest of another age is refused");
  std::vector<uint64_t> handles;
  int error = 0;
  for (int i = 0; i < 100 && error == 0; i++)
    error = guest.call(FUSE_OPENDIR, 1, Packet().put(fuse_open_in{}));
  ok(error == ENFILE, "no more open directories than allowed");
  fuse_read_in read{};
  read.fh = 123456;
  read.size = 4096;
  ok(guest.call(FUSE_READDIR, 1, Packet().put(read)) == EBADF, "an unknown handle is refused");
}

void devices() {
  Guest guest(1000, "mine");
  fuse_mknod_in in{};
  in.mode = S_IFBLK | 0600;
  in.rdev = 0x800;
  ok(guest.call(FUSE_MKNOD, 1, Packet().put(in).text("sda")) == EPERM,
     "no device in a shared tree");
  in.mode = S_IFCHR | 0600;
  ok(guest.call(FUSE_MKNOD, guest.lookup(1, "d"), Packet().put(in).text("kmem")) == EPERM,
     "nor below it");
  in.rdev = 0;
  ok(guest.call(FUSE_MKNOD, 1, Packet().put(in).text("whiteout")) == 0, "but a whiteout");
  in.rdev = 0x103;
  ok(guest.call(FUSE_MKNOD, guest.lookup(1, "mine"), Packet().put(in).text("null")) == 0,
     "in the guest's own tree it may");
}

// Else files of two file systems with equal inode numbers are one file to the guest.
void submounts() {
  const std::string sub = Guest::tree + "/d";
  if (unshare(CLONE_NEWNS) < 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
      mount("sub", sub.c_str(), "tmpfs", 0, nullptr) < 0)
    abort();
  Guest guest;
  guest.lookup(1, "d");
  ok((guest.reply<fuse_entry_out>().attr.flags & FUSE_ATTR_SUBMOUNT) != 0,
     "a mount is told as one");
  guest.lookup(1, "mine");
  ok((guest.reply<fuse_entry_out>().attr.flags & FUSE_ATTR_SUBMOUNT) == 0, "a directory is not");
  umount(sub.c_str());
}

void fifo() {
  Guest guest;
  const uint64_t node = guest.lookup(1, "pipe");
  ok(node != 0 && guest.call(FUSE_OPEN, node, Packet().put(fuse_open_in{O_RDONLY, 0})) == EINVAL,
     "a FIFO is not opened: that could block");
  fuse_create_in create{};
  create.flags = O_WRONLY;
  ok(guest.call(FUSE_CREATE, 1, Packet().put(create).text("pipe")) == EINVAL && !guest.last->file,
     "nor by CREATE");
}

// Every opcode, with every prefix of something plausible: no crash, no byte too far.
void short_packets() {
  Guest guest;
  int survived = 0;
  for (uint32_t opcode = 0; opcode < 60; opcode++) {
    Packet whole;
    for (int i = 0; i < 12; i++) whole.put(uint64_t{1});
    whole.text("name").text("other", false);
    for (size_t size = 0; size <= whole.bytes.size(); size++) {
      Packet part;
      part.bytes.assign(whole.bytes.begin(), whole.bytes.begin() + static_cast<long>(size));
      guest.call(opcode, 1, part);
      survived++;
    }
  }
  ok(survived > 0, "short packets of every opcode");
  ok(guest.call(FUSE_ACCESS, 1, Packet().put(fuse_access_in{})) == ENOSYS &&
         guest.call(12345, 1, Packet()) == ENOSYS,
     "what is not served is ENOSYS");
}

void attributes() {
  Guest guest;
  const uint64_t node = guest.lookup(1, "f");
  struct Header {
    uint32_t size, flags;
  };
  for (const char* name : {"security.selinux", "trusted.overlay.opaque", "system.posix_acl_access",
                           "security.capability"})
    ok(guest.call(FUSE_SETXATTR, node, Packet().put(Header{1, 0}).text(name).text("v", false)) ==
           EOPNOTSUPP,
       std::string("the guest does not set ") + name);
  ok(guest.call(FUSE_SETXATTR, node, Packet().put(Header{50, 0}).text("user.a").text("v", false)) ==
         EINVAL,
     "a value that is not there");
  ok(guest.call(FUSE_GETXATTR, node,
                Packet().put(fuse_getxattr_in{0, 0}).text("trusted.overlay.origin")) == ENODATA,
     "and sees none of the host's");
}

void write_file(const std::string& path, const char* text) {
  const int fd = open(path.c_str(), O_CREAT | O_WRONLY, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) abort();
  close(fd);
}

std::string read_file(const std::string& path) {
  char buffer[64];
  const int fd = open(path.c_str(), O_RDONLY);
  const ssize_t size = read(fd, buffer, sizeof buffer);
  close(fd);
  return std::string(buffer, size < 0 ? 0 : static_cast<size_t>(size));
}

}  // namespace

int main() {
  char* cwd = getcwd(nullptr, 0);
  const std::string base = cwd;
  free(cwd);
  Guest::tree = base + "/tree";
  for (const char* dir : {"/tree", "/outside", "/tree/d", "/tree/mine"})
    mkdir((base + dir).c_str(), 0700);
  write_file(base + "/outside/secret", "secret");
  write_file(Guest::tree + "/f", "f");
  for (int i = 0; i < 8; i++) write_file(Guest::tree + "/n" + std::to_string(i), "n");
  symlink((base + "/outside").c_str(), (Guest::tree + "/out").c_str());
  symlink((base + "/outside/secret").c_str(), (Guest::tree + "/file-out").c_str());
  mkfifo((Guest::tree + "/pipe").c_str(), 0600);
  names();
  links_are_not_followed();
  swapped();
  counts();
  devices();
  submounts();
  fifo();
  attributes();
  short_packets();
  struct stat left {};
  ok(read_file(base + "/outside/secret") == "secret" &&
         stat((base + "/outside/made").c_str(), &left) < 0 &&
         stat((base + "/outside/secret").c_str(), &left) == 0 && (left.st_mode & 0777) == 0600,
     "nothing outside the tree was touched");
  printf("1..%d\n", g_tests);
  return g_failures == 0 ? 0 : 1;
}
