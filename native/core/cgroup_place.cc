#include "core/cgroup_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "core/device_program.h"

namespace isopod::core {

Result<CgroupPlace> cgroup_prepare(const std::string& path,
                                   const std::vector<uint8_t>& device_program) {
  CgroupPlace place;
  place.made = ::mkdir(path.c_str(), 0755) == 0;
  if (!place.made && errno != EEXIST) return failure(errno, "cgroup", path);
  place.fd.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  int err = place.fd ? 0 : errno;
  const char* step = "cgroup";
  if (err == 0 && !device_program.empty()) {
    err = attach_device_program(place.fd.get(), device_program);
    step = "device program";
  }
  if (err == 0) return place;
  if (place.made) ::rmdir(path.c_str());
  return failure(err, step, path);
}

}  // namespace isopod::core
