#include "fs/serve.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "vmm/virtio/fs_protocol.h"

namespace isopod::fs {

namespace {

using vmm::virtio::kFsPacket;
using vmm::virtio::kFsReplyData;

struct Crew {
  int socket;
  int proc_fd;
  Session& session;
  pthread_barrier_t set_up;
  pthread_barrier_t go;
};

[[noreturn]] void give_up(const char* what) {
  fprintf(stderr, "isopod-fs: %s: %s\n", what, strerror(errno));
  _exit(1);
}

// errno, or 0.
int transmit(int socket, fuse_out_header& header, const Reply* reply) {
  iovec parts[2] = {{&header, sizeof header}, {nullptr, 0}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 1;
  if (reply != nullptr && reply->size() > 0) {
    parts[1] = {const_cast<uint8_t*>(reply->data().data()), reply->size()};
    message.msg_iovlen = 2;
  }
  if (reply != nullptr && reply->file) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = reply->file.get();
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  for (;;) {
    if (sendmsg(socket, &message, MSG_NOSIGNAL) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

void answer(int socket, uint64_t unique, Errno error, const Reply& reply) {
  fuse_out_header header{};
  header.unique = unique;
  header.error = -error;
  header.len = static_cast<uint32_t>(sizeof header + (error == 0 ? reply.size() : 0));
  int failed = transmit(socket, header, error == 0 ? &reply : nullptr);
  if (failed == ETOOMANYREFS) {
    // Descriptors that the monitor has not taken yet: this one cannot be passed now.
    header.error = -ENFILE;
    header.len = sizeof header;
    failed = transmit(socket, header, nullptr);
  }
  if (failed == EPIPE || failed == ECONNRESET) _exit(0);
  errno = failed;
  if (failed != 0) give_up("sending a reply");
}

void* work(void* argument) {
  Crew& crew = *static_cast<Crew*>(argument);
  // A working directory of its own (see session.h): extended attributes have path names only.
  if (unshare(CLONE_FS) < 0 || fchdir(crew.proc_fd) < 0) give_up("setting up a thread");
  pthread_barrier_wait(&crew.set_up);
  pthread_barrier_wait(&crew.go);
  std::vector<uint8_t> packet(kFsPacket);
  for (;;) {
    const ssize_t size = recv(crew.socket, packet.data(), packet.size(), MSG_TRUNC);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) _exit(0);
    fuse_in_header header;
    const auto bytes = static_cast<size_t>(size);
    if (bytes < sizeof header || bytes > packet.size()) give_up("a packet of no message's size");
    memcpy(&header, packet.data(), sizeof header);
    if (header.len != bytes) give_up("a packet whose length is not its message's");
    Reply reply(kFsReplyData);
    const Arguments arguments(packet.data() + sizeof header, bytes - sizeof header);
    const Errno error = crew.session.handle(header, arguments, reply);
    if (!reply.silent) answer(crew.socket, header.unique, error, reply);
  }
}

}  // namespace

void serve(int socket, int proc_fd, Session& session, unsigned threads, Status (*ready)()) {
  Crew crew{socket, proc_fd, session, {}, {}};
  pthread_barrier_init(&crew.set_up, nullptr, threads + 1);
  pthread_barrier_init(&crew.go, nullptr, threads + 1);
  pthread_t first{};
  for (unsigned i = 0; i < threads; i++) {
    pthread_t thread;
    errno = pthread_create(&thread, nullptr, work, &crew);
    if (errno != 0) give_up("making a thread");
    if (i == 0) first = thread;
  }
  pthread_barrier_wait(&crew.set_up);
  if (Status status = ready(); !status) {
    errno = status.error().err;
    give_up(status.error().step);
  }
  pthread_barrier_wait(&crew.go);
  // Whichever thread hears of the end ends the process. This one must not end before: /proc/self/fd
  // is its, and empty once it is gone.
  pthread_join(first, nullptr);
  abort();
}

}  // namespace isopod::fs
