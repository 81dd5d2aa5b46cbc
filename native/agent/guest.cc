#include "agent/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "agent/disk.h"
#include "base/fd.h"
#include "base/file.h"
#include "core/host.h"

namespace isopod::agent {

namespace {

constexpr size_t kMinEntropy = 32;
constexpr size_t kMaxEntropy = 4096;
constexpr int64_t kSecond = 1'000'000'000;

Error refuse(const char* step, const std::string& subject, const char* why) {
  return Error{0, step, subject, {}, why, "INVALID_ARGUMENT"};
}

Status make_directories(const std::string& path) {
  for (size_t at = 0; at != std::string::npos;) {
    at = path.find('/', at + 1);
    if (::mkdir(path.substr(0, at).c_str(), 0755) < 0 && errno != EEXIST)
      return failure(errno, "mkdir", path);
  }
  return Done{};
}

// The old content or the new one, never half of it.
Status replace_file(const std::string& directory, const File& file) {
  if (file.name.empty() || file.name[0] == '.' || file.name.find('/') != std::string::npos)
    return refuse("write", file.name, "not a file name");
  const std::string path = directory + "/" + file.name;
  const std::string temporary = directory + "/." + file.name;
  {
    const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd) return failure(errno, "write", path);
    for (size_t at = 0; at < file.content.size();) {
      const ssize_t size = ::write(fd.get(), file.content.data() + at, file.content.size() - at);
      if (size < 0 && errno != EINTR) return failure(errno, "write", path);
      if (size > 0) at += static_cast<size_t>(size);
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) < 0) return failure(errno, "write", path);
  return Done{};
}

// net.ipv4.ip_forward or net/ipv4/ip_forward: the first separator is the one that separates
// (sysctl(8)), so that net/ipv4/conf/eth0.1/forwarding can be named.
Status set_sysctl(const std::string& name, const std::string& value) {
  std::string path = name;
  const size_t first = name.find_first_of("./");
  if (first != std::string::npos && name[first] == '.')
    for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
  if (path.empty() || path[0] == '/' || ("/" + path + "/").find("/../") != std::string::npos)
    return refuse("sysctl", name, "not a name");
  Status wrote = write_file(AT_FDCWD, "/proc/sys/" + path, value);
  return wrote ? Status(Done{}) : Status(failure(wrote.error().err, "sysctl", name));
}

}  // namespace

Status configure(const ConfigureRequest& request, const std::string& files) {
  if (!request.hostname.empty() &&
      ::sethostname(request.hostname.data(), request.hostname.size()) < 0)
    return failure(errno, "hostname", request.hostname);
  for (const auto& [name, value] : request.sysctls)
    if (Status set = set_sysctl(name, value); !set) return set;
  if (!request.files.empty())
    if (Status made = make_directories(files); !made) return made;
  for (const File& file : request.files)
    if (Status written = replace_file(files, file); !written) return written;
  return Done{};
}

Result<Mounted> mount(const MountRequest& request) {
  Mounted mounted;
  std::string type = request.type, source = request.source;
  if (type.empty()) return refuse("mount", request.source, "needs a type");
  if (type == "block") {
    Result<Disk> disk = find_disk(request.source, request.timeout_ms);
    if (!disk) return disk.error();
    mounted = Mounted{disk->path, disk->major, disk->minor};
    if (request.filesystem.empty()) return mounted;
    type = request.filesystem;
    source = disk->path;
  }
  if (request.target.empty() || request.target[0] != '/')
    return refuse("mount", request.target, "the target must be an absolute path");
  if (Status made = make_directories(request.target); !made) return made.error();
  if (Status done = core::host_mount(type, source, request.target, request.options); !done)
    return done.error();
  return mounted;
}

Status unmount(const UnmountRequest& request) {
  if (request.target.size() < 2 || request.target[0] != '/')
    return refuse("unmount", request.target, "must be an absolute path");
  return core::host_unmount(request.target);
}

Status set_clock(const SetClockRequest& request) {
  if (request.unix_nanoseconds <= 0)
    return refuse("clock", std::to_string(request.unix_nanoseconds), "lies before 1970");
  timespec now{};
  now.tv_sec = request.unix_nanoseconds / kSecond;
  now.tv_nsec = request.unix_nanoseconds % kSecond;
  return ::clock_settime(CLOCK_REALTIME, &now) < 0 ? Status(failure(errno, "clock", ""))
                                                   : Status(Done{});
}

Status reseed(const ReseedRequest& request) {
  const size_t size = request.entropy.size();
  if (size < kMinEntropy || size > kMaxEntropy)
    return refuse("entropy", std::to_string(size), "must be 32 to 4096 bytes");
  std::vector<uint32_t> words(2 + (size + 3) / 4);
  // struct rand_pool_info: bits, bytes, then the bytes.
  words[0] = static_cast<uint32_t>(8 * size);
  words[1] = static_cast<uint32_t>(size);
  std::memcpy(words.data() + 2, request.entropy.data(), size);
  const UniqueFd random(::open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!random) return failure(errno, "open", "/dev/urandom");
  if (::ioctl(random.get(), RNDADDENTROPY, words.data()) < 0 ||
      ::ioctl(random.get(), RNDRESEEDCRNG) < 0)
    return failure(errno, "entropy", "");
  return Done{};
}

}  // namespace isopod::agent
