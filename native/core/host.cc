#include "core/host.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/fd.h"
#include "base/file.h"

namespace isopod::core {
namespace {

struct Word {
  const char* name;
  unsigned long flag;
  bool clear;
};
constexpr Word kWords[] = {
    {"ro", MS_RDONLY, false},          {"rw", MS_RDONLY, true},           {"nosuid", MS_NOSUID, false},
    {"suid", MS_NOSUID, true},         {"nodev", MS_NODEV, false},        {"dev", MS_NODEV, true},
    {"noexec", MS_NOEXEC, false},      {"exec", MS_NOEXEC, true},         {"bind", MS_BIND, false},
    {"rbind", MS_BIND | MS_REC, false}, {"noatime", MS_NOATIME, false},   {"relatime", MS_RELATIME, false},
    {"sync", MS_SYNCHRONOUS, false},   {"dirsync", MS_DIRSYNC, false},    {"defaults", 0, false},
};

bool apply_word(const std::string& option, unsigned long& flags) {
  for (const Word& word : kWords) {
    if (option != word.name) continue;
    flags = word.clear ? flags & ~word.flag : flags | word.flag;
    return true;
  }
  return false;
}

// mountinfo escapes blank, tab, newline and backslash as \ooo.
std::string unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain.push_back(static_cast<char>(strtol(text.substr(i + 1, 3).c_str(), nullptr, 8)));
      i += 3;
    } else {
      plain.push_back(text[i]);
    }
  }
  return plain;
}

std::vector<std::string> mounts_below(const std::string& path) {
  std::vector<std::string> found;
  Result<std::string> table = read_file(AT_FDCWD, "/proc/self/mountinfo");
  if (!table) return found;
  std::istringstream lines(*table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, target;
    fields >> id >> parent >> device >> root >> target;
    target = unescape(target);
    if (target == path || target.compare(0, path.size() + 1, path + "/") == 0) found.push_back(target);
  }
  return found;
}

}  // namespace

Status make_fifo(const std::string& path, mode_t mode, uid_t uid, gid_t gid) {
  if (mkfifo(path.c_str(), mode) < 0) return failure(errno, "make fifo", path);
  // mkfifo's mode went through the umask.
  if (chown(path.c_str(), uid, gid) == 0 && chmod(path.c_str(), mode) == 0) return Done{};
  Error error = failure(errno, "make fifo", path);
  unlink(path.c_str());
  return error;
}

Status host_mount(const std::string& type, const std::string& source, const std::string& target,
                  const std::vector<std::string>& options) {
  unsigned long flags = 0;
  std::string data;
  for (const std::string& option : options) {
    if (!apply_word(option, flags)) data += (data.empty() ? "" : ",") + option;
  }
  if (mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()) < 0) {
    return Error{errno, "mount", source, target, {}, nullptr};
  }
  // A bind takes no other flags at once (mount(2)): they need a remount.
  if ((flags & MS_BIND) == 0 || (flags & ~(MS_BIND | MS_REC)) == 0) return Done{};
  if (mount(nullptr, target.c_str(), nullptr, (flags & ~MS_REC) | MS_REMOUNT, nullptr) == 0) return Done{};
  Error error{errno, "mount", source, target, {}, nullptr};
  umount2(target.c_str(), MNT_DETACH);
  return error;
}

Status host_unmount(const std::string& path) {
  std::vector<std::string> found = mounts_below(path);
  // Newest first: what is stacked or nested comes later in the table.
  for (auto target = found.rbegin(); target != found.rend(); ++target) {
    if (umount2(target->c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT) {
      return failure(errno, "unmount", *target);
    }
  }
  return Done{};
}

Result<bool> notify(const std::string& state) {
  const char* address = getenv("NOTIFY_SOCKET");
  if (address == nullptr || *address == '\0') return false;
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  size_t length = strlen(address);
  if (length >= sizeof(to.sun_path)) return failure(ENAMETOOLONG, "notify", address);
  memcpy(to.sun_path, address, length);
  if (to.sun_path[0] == '@') to.sun_path[0] = '\0';  // abstract
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (!socket || sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL,
                        reinterpret_cast<sockaddr*>(&to), size) < 0) {
    return failure(errno, "notify", address);
  }
  return true;
}

}  // namespace isopod::core
