#include "core/unit_place.h"

#include <cstring>
#include <memory>
#include <utility>

#include "core/cgroup_place.h"
#include "core/jobs.h"

namespace isopod::core {

namespace {

constexpr int kUndoMs = 10'000;

struct UnitPlace {
  TransientUnit unit;
  std::string cgroup;
  CgroupWrites writes;
  std::vector<uint8_t> device_program;
  bool foreign = false;
};

}  // namespace

void place_in_unit(LaunchRequest& request, TransientUnit unit) {
  auto place = std::make_shared<UnitPlace>(UnitPlace{std::move(unit), request.cgroup,
                                                     std::move(request.cgroup_writes),
                                                     std::move(request.device_program)});
  request.place = [place](int pid, std::function<void(Status)> done) {
    unit_start(place->unit, pid, [place, pid, done = std::move(done)](Status started) {
      if (!started) {
        const char* code = started.error().code;
        place->foreign = code != nullptr && strcmp(code, "ALREADY_EXISTS") == 0;
        return done(started.error());
      }
      // Off the bus's thread: the kernel may take its time over a cpuset.
      run_job([place, pid, done] {
        done(cgroup_adopt(place->cgroup, pid, place->writes, place->device_program));
      });
    });
  };
  request.unplace = [place](std::function<void()> done) {
    if (place->foreign) return done();
    unit_stop(place->unit.name, kUndoMs, [done = std::move(done)](const Status&) { done(); });
  };
}

}  // namespace isopod::core
