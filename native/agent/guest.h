// What the host tells the guest as a whole: names, files, mounts, clock, entropy. Each may wait:
// for job threads.
#pragma once

#include <string>

#include "agent/messages.h"
#include "base/result.h"

namespace isopod::agent {

Status configure(const ConfigureRequest& request, const std::string& files);

struct Mounted {
  std::string device;  // of a block device; else empty
  uint32_t major = 0;
  uint32_t minor = 0;
};
Result<Mounted> mount(const MountRequest& request);
Status unmount(const UnmountRequest& request);

Status set_clock(const SetClockRequest& request);
// RNDADDENTROPY and RNDRESEEDCRNG: guests that were restored from one template draw the same
// numbers until then (vmm.md §3.2).
Status reseed(const ReseedRequest& request);

}  // namespace isopod::agent
