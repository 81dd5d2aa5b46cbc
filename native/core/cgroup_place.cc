#include "core/cgroup_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>
#include <utility>

#include "base/file.h"
#include "core/device_program.h"
#include "core/host.h"

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

namespace {

bool known_to_systemd(const std::string& controller) {
  for (const char* name : {"cgroup", "cpu", "cpuset", "io", "memory", "pids"})
    if (controller == name) return true;
  return false;
}

// systemd gives a delegated unit the controllers that it knows. Others (hugetlb, rdma, misc) it
// neither enables nor takes away: they are for whoever wants them, from the root down. What cannot
// be enabled shows when the file is missing.
void enable_above(const std::string& path, const CgroupWrites& writes) {
  const std::string& root = features().cgroup_root;
  if (root.empty() || path.compare(0, root.size() + 1, root + '/') != 0) return;
  std::set<std::string> wanted;
  for (const CgroupWrite& write : writes)
    if (std::string name = write.file.substr(0, write.file.find('.')); !known_to_systemd(name))
      wanted.insert(std::move(name));
  for (const std::string& name : wanted)
    for (size_t at = root.size(); at != std::string::npos; at = path.find('/', at + 1))
      static_cast<void>(
          write_file(AT_FDCWD, path.substr(0, at) + "/cgroup.subtree_control", '+' + name).ok());
}

}  // namespace

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
  enable_above(path, writes);
  return furnish(place, path, writes, device_program);
}

void cgroup_restore(const std::string& path, const CgroupWrites& undo) {
  if (!undo.empty()) static_cast<void>(cgroup_write(path, undo).ok());
}

}  // namespace isopod::core
