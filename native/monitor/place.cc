#include "monitor/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "monitor/sha256.h"

namespace isopod::monitor {

namespace {

constexpr std::string_view kDefaultState = "/run/isopod";
constexpr std::string_view kScheme = "unix://";
constexpr size_t kMaxState = 60;
constexpr size_t kMaxSocketDir = 107 - 1 - kNameDigits;
// Many pods may be started before a fresh server has booted; the kernel caps it at net.core.somaxconn.
constexpr int kBacklog = 4096;

void fill(sockaddr_un* address, const SocketText& socket) {
  *address = {};
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, socket.c_str(), socket.size());
}

bool exists(const PathText& path) { return access(path.c_str(), F_OK) == 0; }

bool make_directory(const char* path, mode_t mode, Message4K* error) {
  if (mkdir(path, mode) == 0 || errno == EEXIST) return true;
  *error << "making directory \"" << path << "\": " << strerror(errno);
  return false;
}

}  // namespace

bool find_place(const Invocation& invocation, std::string_view socket_dir, Place* out, Message4K* error) {
  std::string_view address = invocation.address;
  if (starts_with(address, kScheme)) address.remove_prefix(kScheme.size());
  const std::string_view state = address.empty() ? kDefaultState : directory_of(address);
  if (state.empty() || state.front() != '/') {
    *error << "-address \"" << invocation.address << "\": must be an absolute path";
    return false;
  }
  if (socket_dir.empty() && state.size() > kMaxState) {
    *error << "-address \"" << address << "\": its directory has more than "
           << static_cast<int64_t>(kMaxState) << " bytes, and sockets below it would not fit";
    return false;
  }
  if (socket_dir.size() > kMaxSocketDir) {
    *error << "socket_dir \"" << socket_dir << "\": more than " << static_cast<int64_t>(kMaxSocketDir)
           << " bytes";
    return false;
  }
  out->state << state;
  if (socket_dir.empty()) {
    out->directory << state << "/s";
  } else {
    out->directory << socket_dir;
  }
  Text<8192> text;
  text << invocation.address << "/" << invocation.namespace_name;
  sha256_hex(text.view(), out->prefix, kPrefixDigits);
  return true;
}

SocketText socket_of(const Place& place, const Invocation& invocation, std::string_view group,
                     std::string_view build) {
  Text<8192> text;
  text << invocation.address << "/" << invocation.namespace_name << "/" << group;
  if (!build.empty()) text << "\n" << build;
  char rest[kNameDigits - kPrefixDigits + 1] = {};
  sha256_hex(text.view(), rest, kNameDigits - kPrefixDigits);
  SocketText socket;
  socket << place.directory.view() << "/" << place.prefix << rest;
  return socket;
}

PathText records_of(std::string_view socket, std::string_view id, std::string_view ending) {
  PathText path;
  path << socket << ".d/" << id << ending;
  return path;
}

SocketText recorded_socket(const Place& place, std::string_view id, std::string_view bundle) {
  const SocketText noted = read_address(bundle);
  if (!noted.empty() && directory_of(noted.view()) == place.directory.view() &&
      exists(records_of(noted.view(), id, ".json"))) {
    return noted;
  }
  SocketText found;
  DIR* directory = opendir(place.directory.c_str());
  if (directory == nullptr) return found;
  while (const dirent* entry = readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name.size() != kNameDigits + 2 || !starts_with(name, place.prefix) || !ends_with(name, ".d")) continue;
    SocketText socket;
    socket << place.directory.view() << "/" << std::string_view(name.data(), kNameDigits);
    if (!exists(records_of(socket.view(), id, ".json"))) continue;
    found = socket;
    break;
  }
  closedir(directory);
  return found;
}

bool alive(const SocketText& socket) {
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address;
  fill(&address, socket);
  // EAGAIN: its backlog is full, so somebody listens.
  return connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
}

UniqueFd lock_sockets(const Place& place) {
  UniqueFd directory(open(place.directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (directory && flock(directory.get(), LOCK_EX) != 0 && errno == EINTR) continue;
  return directory;
}

UniqueFd bind_socket(const SocketText& socket, Message4K* error) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address;
  fill(&address, socket);
  if (unlink(socket.c_str()) != 0 && errno != ENOENT) {
    *error << "removing dead socket \"" << socket.view() << "\": " << strerror(errno);
    return {};
  }
  const mode_t mask = umask(0177);
  const int bound = bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  const int reason = errno;
  umask(mask);
  if (bound != 0 || listen(listener.get(), kBacklog) != 0) {
    *error << "binding \"" << socket.view() << "\": " << strerror(bound != 0 ? reason : errno);
    if (bound == 0) unlink(socket.c_str());
    return {};
  }
  if (!make_directory(records_of(socket.view()).c_str(), 0700, error)) {
    unlink(socket.c_str());
    return {};
  }
  return listener;
}

SocketText read_address(std::string_view bundle) {
  PathText path;
  path << bundle << "/address";
  char content[256];
  std::string_view text = read_small(path.c_str(), content, sizeof content);
  SocketText socket;
  if (!starts_with(text, kScheme)) return socket;
  text.remove_prefix(kScheme.size());
  if (text.size() < sizeof(sockaddr_un::sun_path)) socket << text;
  return socket;
}

bool write_address(std::string_view bundle, std::string_view socket, Message4K* error) {
  PathText path;
  path << bundle << "/address";
  PathText temporary;
  temporary << bundle << "/.address." << static_cast<int64_t>(getpid());
  Text<256> content;
  content << kScheme << socket;
  UniqueFd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const auto size = static_cast<ssize_t>(content.size());
  if (file && write(file.get(), content.c_str(), content.size()) == size &&
      rename(temporary.c_str(), path.c_str()) == 0) {
    return true;
  }
  *error << "writing \"" << path.view() << "\": " << strerror(errno);
  unlink(temporary.c_str());
  return false;
}

std::string_view read_small(const char* path, char* buffer, size_t capacity) {
  UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  size_t size = 0;
  while (file && size < capacity) {
    const ssize_t got = read(file.get(), buffer + size, capacity - size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  return {buffer, size};
}

}  // namespace isopod::monitor
