// The kernel as a guest: mounts /dev/fuse at MOUNTPOINT and serves it by isopod-fs, standing in for
// the virtual machine monitor. What the kernel's FUSE client asks for goes to the server, except
// for what the monitor does by itself on the descriptors that OPEN gave it
// (vmm/virtio/fs_protocol.h).
//
//   bridge ISOPOD_FS TREE MOUNTPOINT [OPTION...]     prints "ready", ends when unmounted
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"
#include "vmm/virtio/fs_protocol.h"

namespace {

using isopod::UniqueFd;
using isopod::vmm::virtio::kFsPacket;
using isopod::vmm::virtio::kFsReplyData;
using isopod::vmm::virtio::kFsSocketBuffer;

[[noreturn]] void die(const char* what) {
  perror(what);
  exit(1);
}

pid_t start_server(const char* program, const char* tree, int socket, char** options) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int root = open(tree, O_PATH | O_DIRECTORY);
  if (root < 0 || dup2(root, 10) < 0 || dup2(socket, 11) < 0) die(tree);
  std::vector<char*> words;
  for (const char* word : {program, "--root", "10", "--socket", "11"})
    words.push_back(strdup(word));
  for (; *options != nullptr; options++) words.push_back(*options);
  words.push_back(nullptr);
  execv(program, words.data());
  die(program);
}

class Bridge {
 public:
  Bridge(int fuse, int server) : fuse_(fuse), server_(server), data_(kMost) {}

  void run() {
    std::vector<uint8_t> request(kMost);
    for (;;) {
      const ssize_t size = read(fuse_, request.data(), request.size());
      if (size < 0 && (errno == EINTR || errno == ENOENT)) continue;
      if (size < 0) return;  // ENODEV: unmounted
      serve(request.data(), static_cast<size_t>(size));
    }
  }

 private:
  static constexpr size_t kMost = (size_t{1} << 20) + 4096;

  void serve(uint8_t* request, size_t size) {
    fuse_in_header header;
    memcpy(&header, request, sizeof header);
    const uint8_t* body = request + sizeof header;
    switch (header.opcode) {
      case FUSE_READ: {
        const auto in = get<fuse_read_in>(body);
        const ssize_t n = pread(file(in.fh), data_.data(), in.size, static_cast<off_t>(in.offset));
        return reply(header.unique, n < 0 ? -errno : 0, data_.data(),
                     n < 0 ? 0 : static_cast<size_t>(n));
      }
      case FUSE_WRITE: {
        const auto in = get<fuse_write_in>(body);
        const ssize_t n =
            pwrite(file(in.fh), body + sizeof in, in.size, static_cast<off_t>(in.offset));
        const fuse_write_out out{static_cast<uint32_t>(n < 0 ? 0 : n), 0};
        return reply(header.unique, n < 0 ? -errno : 0, &out, n < 0 ? 0 : sizeof out);
      }
      case FUSE_FLUSH:
        return reply(header.unique, 0, nullptr, 0);
      case FUSE_RELEASE:
        files_.erase(get<fuse_release_in>(body).fh);
        return reply(header.unique, 0, nullptr, 0);
      case FUSE_FSYNC:
        return result(header.unique, fsync(file(get<fuse_fsync_in>(body).fh)));
      case FUSE_FALLOCATE: {
        const auto in = get<fuse_fallocate_in>(body);
        return result(header.unique,
                      fallocate(file(in.fh), static_cast<int>(in.mode),
                                static_cast<off_t>(in.offset), static_cast<off_t>(in.length)));
      }
      case FUSE_LSEEK: {
        const auto in = get<fuse_lseek_in>(body);
        const off_t at =
            lseek(file(in.fh), static_cast<off_t>(in.offset), static_cast<int>(in.whence));
        const fuse_lseek_out out{static_cast<uint64_t>(at)};
        return reply(header.unique, at < 0 ? -errno : 0, &out, at < 0 ? 0 : sizeof out);
      }
      case FUSE_COPY_FILE_RANGE:
        return reply(header.unique, -ENOSYS, nullptr, 0);
      case FUSE_INTERRUPT:
        return;
      default:
        return forward(header, request, size);
    }
  }

  void forward(const fuse_in_header& header, uint8_t* request, size_t size) {
    limit_size(header.opcode, request + sizeof header);
    if (send(server_, request, size, MSG_NOSIGNAL) < 0) die("send");
    if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET) return;
    iovec vector{data_.data(), kFsPacket};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(server_, &message, MSG_CMSG_CLOEXEC);
    if (got < static_cast<ssize_t>(sizeof(fuse_out_header))) die("the server has gone");
    UniqueFd passed;
    if (const cmsghdr* rights = CMSG_FIRSTHDR(&message)) {
      int fd;
      memcpy(&fd, CMSG_DATA(rights), sizeof fd);
      passed.reset(fd);
    }
    fuse_out_header out;
    memcpy(&out, data_.data(), sizeof out);
    const bool opens = header.opcode == FUSE_OPEN || header.opcode == FUSE_CREATE;
    if ((opens && out.error == 0) != static_cast<bool>(passed)) {
      fprintf(stderr, "opcode %u, error %d: a descriptor where none belongs, or none\n",
              header.opcode, out.error);
      exit(1);
    }
    if (passed) {
      const size_t at = header.opcode == FUSE_CREATE ? sizeof(fuse_entry_out) : 0;
      const uint64_t handle = next_++;
      memcpy(data_.data() + sizeof out + at + offsetof(fuse_open_out, fh), &handle, sizeof handle);
      files_[handle] = std::move(passed);
    }
    if (write(fuse_, data_.data(), static_cast<size_t>(got)) < 0 && errno != ENOENT) die("reply");
  }

  // As the monitor does: the reply must fit a packet.
  static void limit_size(uint32_t opcode, uint8_t* body) {
    const bool entries = opcode == FUSE_READDIR || opcode == FUSE_READDIRPLUS;
    const bool attributes = opcode == FUSE_GETXATTR || opcode == FUSE_LISTXATTR;
    if (!entries && !attributes) return;
    uint8_t* at = body + (entries ? offsetof(fuse_read_in, size) : 0);
    uint32_t size;
    memcpy(&size, at, sizeof size);
    if (size > kFsReplyData) size = kFsReplyData;
    memcpy(at, &size, sizeof size);
  }

  template <typename T>
  static T get(const uint8_t* body) {
    T value;
    memcpy(&value, body, sizeof value);
    return value;
  }
  int file(uint64_t handle) { return files_.count(handle) ? files_[handle].get() : -1; }
  void result(uint64_t unique, int value) { reply(unique, value < 0 ? -errno : 0, nullptr, 0); }
  void reply(uint64_t unique, int error, const void* data, size_t size) {
    fuse_out_header header{static_cast<uint32_t>(sizeof header + size), error, unique};
    std::vector<uint8_t> bytes(sizeof header + size);
    memcpy(bytes.data(), &header, sizeof header);
    if (size > 0) memcpy(bytes.data() + sizeof header, data, size);
    if (write(fuse_, bytes.data(), bytes.size()) < 0 && errno != ENOENT) die("reply");
  }

  int fuse_;
  int server_;
  std::vector<uint8_t> data_;
  std::map<uint64_t, UniqueFd> files_;
  uint64_t next_ = 1;
};

// The monitor holds no capability at all; this is the one that would show: a write by root keeps
// set-user-id.
void drop_fsetid() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) < 0) die("capget");
  data[0].effective &= ~(1u << CAP_FSETID);
  if (syscall(SYS_capset, &header, data) < 0) die("capset");
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return 2;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) die("socketpair");
  setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &kFsSocketBuffer, sizeof kFsSocketBuffer);
  const pid_t server = start_server(words[1], words[2], pair[1], words + 4);
  close(pair[1]);
  const int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fuse < 0) die("/dev/fuse");
  const std::string options =
      "fd=" + std::to_string(fuse) +
      ",rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other";
  if (mount("isopod-fs", words[3], "fuse", 0, options.c_str()) < 0) die("mount");
  printf("ready %d\n", server);
  fflush(stdout);
  drop_fsetid();
  Bridge(fuse, pair[0]).run();
  close(pair[0]);
  int status = 0;
  waitpid(server, &status, 0);
  printf("server ended with %d\n",
         WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 0;
}
