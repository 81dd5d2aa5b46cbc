#include "monitor/call.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "monitor/wire.h"

namespace isopod::monitor {

namespace {

constexpr size_t kHeader = 10;
constexpr char kRequest = 1;
constexpr char kResponse = 2;

void put32(char* to, uint32_t value) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<char>(value >> (24 - 8 * i) & 0xff);
}

uint32_t get32(const char* from) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(from[i]);
  return value;
}

}  // namespace

Caller::Caller(const SocketText& socket, int timeout_ms)
    : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  const timeval timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, socket.c_str(), socket.size());
  if (connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) socket_.reset();
}

uint32_t Caller::call(std::string_view service, std::string_view method, std::string_view request,
                      std::string_view* response) {
  char frame[1024];
  WireWriter message(frame + kHeader, sizeof frame - kHeader);
  message.bytes(1, service);
  message.bytes(2, method);
  message.bytes(3, request);
  const size_t size = message.view().size();
  put32(frame, static_cast<uint32_t>(size));
  put32(frame + 4, stream_);
  frame[8] = kRequest;
  frame[9] = 0;
  *response = {};
  if (!socket_ || !message.ok() || !exchange({frame, kHeader + size})) return kUnavailable;
  stream_ += 2;
  uint32_t code = 0;
  WireReader reader({answer_, size_});
  for (Field field; reader.next(&field);) {
    if (field.number == 2) *response = field.bytes;
    if (field.number != 1) continue;
    WireReader status(field.bytes);
    for (Field inner; status.next(&inner);) {
      if (inner.number == 1) code = static_cast<uint32_t>(inner.value);
    }
  }
  return reader.ok() ? code : kUnavailable;
}

bool Caller::exchange(std::string_view frame) {
  if (send(socket_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(frame.size())) {
    return false;
  }
  char header[kHeader];
  // Only one call is under way, so the next response is its own.
  do {
    if (!receive(header, sizeof header)) return false;
    size_ = get32(header);
    if (size_ > sizeof answer_ || !receive(answer_, size_)) return false;
  } while (header[8] != kResponse || get32(header + 4) != stream_);
  return true;
}

bool Caller::receive(char* to, size_t size) {
  while (size > 0) {
    const ssize_t got = recv(socket_.get(), to, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace isopod::monitor
