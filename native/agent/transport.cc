#include "agent/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace isopod::agent {

namespace {

Result<UniqueFd> connect_to(int family, const void* address, socklen_t size, uint32_t port) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int result = -1;
  if (fd) do
      result = ::connect(fd.get(), static_cast<const sockaddr*>(address), size);
    while (result < 0 && errno == EINTR);
  if (result < 0) {
    Error error = failure(errno, "connect", std::to_string(port));
    error.code = "UNAVAILABLE";
    return error;
  }
  return fd;
}

}  // namespace

Result<Transport> Transport::unix_directory(const std::string& path) {
  Transport transport;
  transport.directory_.reset(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!transport.directory_) return failure(errno, "open directory", path);
  return transport;
}

Result<UniqueFd> Transport::connect(uint32_t port) const {
  if (!directory_) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_HOST;
    address.svm_port = port;
    return connect_to(AF_VSOCK, &address, sizeof(address), port);
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%u", directory_.get(),
           port);
  return connect_to(AF_UNIX, &address, sizeof(address), port);
}

}  // namespace isopod::agent
