#include "core/cgroup_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

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

Status enter(CgroupPlace& place, const std::string& path) {
  place.fd.reset(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return place.fd ? Status(Done{}) : failure(errno, "cgroup", path);
}

Status furnish(CgroupPlace& place, const std::string& path, const CgroupWrites& writes,
               const std::vector<uint8_t>& device_program) {
  if (!writes.empty()) {
    Result<CgroupWrites> undo = cgroup_write(place.fd.get(), path, writes, place.made);
    if (!undo) return undo.error();
    place.undo = std::move(*undo);
  }
  if (device_program.empty()) return Done{};
  const int err = attach_device_program(place.fd.get(), device_program);
  return err == 0 ? Status(Done{}) : failure(err, "device program", path);
}

}  // namespace

Result<CgroupPlace> cgroup_prepare(const std::string& path, const CgroupWrites& writes,
                                   const std::vector<uint8_t>& device_program) {
  CgroupPlace place;
  place.made = ::mkdir(path.c_str(), 0755) == 0;
  if (!place.made && errno != EEXIST) return failure(errno, "cgroup", path);
  Status ready = enter(place, path);
  const char* why = ready && !place.made ? occupied(place.fd.get()) : nullptr;
  if (why != nullptr) return Error{EBUSY, "cgroup", path, {}, why, "FAILED_PRECONDITION"};
  if (ready) ready = furnish(place, path, writes, device_program);
  if (ready) return place;
  if (place.made)
    ::rmdir(path.c_str());
  else
    cgroup_restore(path, place.undo);
  return ready.error();
}

Status cgroup_adopt(const std::string& path, int pid, const CgroupWrites& writes,
                    const std::vector<uint8_t>& device_program) {
  CgroupPlace place;
  Status ready = enter(place, path);
  if (!ready) return ready;
  Result<std::string> members = read_file(place.fd.get(), "cgroup.procs");
  if (!members) return members.error();
  if (('\n' + *members).find('\n' + std::to_string(pid) + '\n') == std::string::npos)
    return Error{
        ESRCH, "cgroup", path, {}, "its process has not been put into it", "FAILED_PRECONDITION"};
  return furnish(place, path, writes, device_program);
}

void cgroup_restore(const std::string& path, const CgroupWrites& undo) {
  if (!undo.empty()) static_cast<void>(cgroup_write(path, undo).ok());
}

}  // namespace isopod::core
