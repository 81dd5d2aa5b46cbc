#include "core/cgroup_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "core/device_program.h"

namespace isopod::core {

namespace {

// R4: a child that shares Node's memory may not be born among strangers: an OOM kill there could
// take Node with it, and in a frozen cgroup it would never execute, so the launcher would wait for
// ever.
const char* occupied(int cgroup) {
  Result<std::string> events = read_file(cgroup, "cgroup.events");
  if (!events) return nullptr;  // the root cgroup has none
  if (events->find("frozen 1") != std::string::npos) return "is frozen";
  if (events->find("populated 1") != std::string::npos)
    return "is in use: joining needs a successor";
  return nullptr;
}

}  // namespace

Result<CgroupPlace> cgroup_prepare(const std::string& path, const CgroupWrites& writes,
                                   const std::vector<uint8_t>& device_program) {
  CgroupPlace place;
  place.made = ::mkdir(path.c_str(), 0755) == 0;
  if (!place.made && errno != EEXIST) return failure(errno, "cgroup", path);
  place.fd.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  int err = place.fd ? 0 : errno;
  const char* step = "cgroup";
  const char* why = err == 0 && !place.made ? occupied(place.fd.get()) : nullptr;
  if (why != nullptr) return Error{EBUSY, step, path, {}, why, "FAILED_PRECONDITION"};
  if (err == 0 && !writes.empty()) {
    Result<CgroupWrites> written = cgroup_write(place.fd.get(), path, writes, place.made);
    if (!written) {
      if (place.made) ::rmdir(path.c_str());
      return written.error();
    }
    place.undo = std::move(*written);
  }
  if (err == 0 && !device_program.empty()) {
    err = attach_device_program(place.fd.get(), device_program);
    step = "device program";
  }
  if (err == 0) return place;
  if (place.made) ::rmdir(path.c_str());
  cgroup_restore(path, place.undo);
  return failure(err, step, path);
}

void cgroup_restore(const std::string& path, const CgroupWrites& undo) {
  if (!undo.empty()) static_cast<void>(cgroup_write(path, undo).ok());
}

}  // namespace isopod::core
