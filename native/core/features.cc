#include <fcntl.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/fd.h"
#include "base/file.h"
#include "core/host.h"

namespace isopod::core {
namespace {

struct Version {
  int major = 0, minor = 0;
  bool operator<(const Version& other) const {
    return major != other.major ? major < other.major : minor < other.minor;
  }
};

Version parse(const char* text) {
  Version version;
  sscanf(text, "%d.%d", &version.major, &version.minor);
  return version;
}

struct Kernel {
  std::string release;
  Version version;
};

// The running kernel, or the older one that ISOPOD_FEATURES asks to be taken for it.
const Kernel& kernel() {
  static const Kernel* known = [] {
    utsname name{};
    uname(&name);
    auto* kernel = new Kernel{name.release, parse(name.release)};
    const char* forced = getenv("ISOPOD_FEATURES");
    if (forced != nullptr && *forced != '\0' && parse(forced) < kernel->version) *kernel = {forced, parse(forced)};
    return kernel;
  }();
  return *known;
}

// /proc/self/mountinfo: ID PARENT DEV ROOT TARGET OPTIONS … - TYPE SOURCE SUPER
std::string find_cgroup_root() {
  Result<std::string> table = read_file(AT_FDCWD, "/proc/self/mountinfo");
  if (!table) return {};
  std::istringstream lines(*table);
  for (std::string line; std::getline(lines, line);) {
    size_t dash = line.find(" - cgroup2 ");
    if (dash == std::string::npos) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, target;
    fields >> id >> parent >> device >> root >> target;
    if (root == "/") return target;
  }
  return {};
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> all;
  for (std::string word; in >> word;) all.push_back(word);
  return all;
}

uint64_t capabilities() {
  Result<std::string> status = read_file(AT_FDCWD, "/proc/self/status");
  if (!status) return 0;
  size_t at = status->find("\nCapEff:");
  return at == std::string::npos ? 0 : strtoull(status->c_str() + at + 8, nullptr, 16);
}

// 6.5: `lowerdir+` names one layer at a time. Asked of the kernel itself, since distributions backport it.
bool overlay_lowerdir_append() {
  UniqueFd context(fsopen("overlay", FSOPEN_CLOEXEC));
  if (!context) return false;
  return fsconfig(context.get(), FSCONFIG_SET_STRING, "lowerdir+", "/", 0) == 0;
}

std::string first_line(const char* path) {
  Result<std::string> text = read_file(AT_FDCWD, path);
  return text ? text->substr(0, text->find('\n')) : std::string();
}

Features probe() {
  Features found;
  found.kernel = kernel().release;
#if defined(__aarch64__)
  found.arch = "aarch64";
#else
  found.arch = "x86_64";
#endif
  found.cgroup_root = find_cgroup_root();
  if (!found.cgroup_root.empty()) {
    if (Result<std::string> all = read_file(AT_FDCWD, found.cgroup_root + "/cgroup.controllers")) {
      found.controllers = words(*all);
    }
  }
  found.flags["overlayLowerdirAppend"] = kernel_at_least(6, 5) && overlay_lowerdir_append();
  found.flags["cgroupKill"] = kernel_at_least(5, 14);
  found.effective_capabilities = capabilities();
  found.apparmor = first_line("/sys/module/apparmor/parameters/enabled") == "Y";
  found.selinux = access("/sys/fs/selinux/enforce", F_OK) == 0;
  return found;
}

}  // namespace

const Features& features() {
  static const Features* known = new Features(probe());
  return *known;
}

bool kernel_at_least(int major, int minor) { return !(kernel().version < Version{major, minor}); }

}  // namespace isopod::core
