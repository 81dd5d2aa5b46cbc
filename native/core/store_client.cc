#include "core/store_client.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "monitor/protocol.h"

namespace isopod::core {
namespace {

using monitor::Message;

constexpr char kStep[] = "fd store";

Status fill(char* to, size_t size, const std::string& text) {
  if (text.size() >= size) return failure(ENAMETOOLONG, kStep, text);
  memcpy(to, text.data(), text.size());
  return Done{};
}

Status send(int socket, const Message& message, int fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{const_cast<Message*>(&message), sizeof(message)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &fd, sizeof(int));
  }
  while (sendmsg(socket, &header, MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) break;  // the monitor is gone
    return failure(errno, kStep, message.name);
  }
  return Done{};
}

// One packet; false at a packet that is not the protocol's, which is dropped with its descriptors.
Result<bool> receive(int socket, Message& message, UniqueFd& fd) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec part{&message, sizeof(message)};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t n;
  while ((n = recvmsg(socket, &header, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno != EINTR) return failure(errno, kStep, "inventory");
  }
  if (n == 0) return failure(ECONNRESET, kStep, "inventory");
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int received;
    memcpy(&received, CMSG_DATA(c), sizeof(int));
    fd.reset(received);
  }
  message.name[sizeof(message.name) - 1] = '\0';
  return n == static_cast<ssize_t>(sizeof(message)) && (header.msg_flags & MSG_CTRUNC) == 0;
}

}  // namespace

Result<StoreClient> StoreClient::open(UniqueFd socket, Inventory& inventory) {
  fcntl(socket.get(), F_SETFD, FD_CLOEXEC);
  timeval patience{5, 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  for (;;) {
    Message message{};
    UniqueFd fd;
    Result<bool> valid = receive(socket.get(), message, fd);
    if (!valid) return valid.error();
    if (!*valid) continue;
    if (message.kind == monitor::kReady) return StoreClient(std::move(socket));
    if (message.kind == monitor::kFd && fd) {
      inventory.fds.emplace_back(message.name, std::move(fd));
    } else if (message.kind == monitor::kExit) {
      inventory.exits.push_back({message.name, message.status, message.exited_at});
    }
  }
}

Status StoreClient::put(const std::string& name, int fd) {
  Message message{};
  message.kind = monitor::kPut;
  if (Status filled = fill(message.name, sizeof(message.name), name); !filled) return filled;
  return send(socket_.get(), message, fd);
}

Status StoreClient::drop(const std::string& name) {
  Message message{};
  message.kind = monitor::kDrop;
  if (Status filled = fill(message.name, sizeof(message.name), name); !filled) return filled;
  return send(socket_.get(), message, -1);
}

Status StoreClient::task(const std::string& id, int pid, const std::string& record) {
  Message message{};
  message.kind = monitor::kTask;
  message.pid = pid;
  if (Status filled = fill(message.name, sizeof(message.name), id); !filled) return filled;
  if (Status filled = fill(message.record, sizeof(message.record), record); !filled) return filled;
  return send(socket_.get(), message, -1);
}

}  // namespace isopod::core
