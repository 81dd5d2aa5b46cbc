// The guest's cgroups as containers use them: places, limits, readings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/messages.h"
#include "base/result.h"

namespace isopod::agent {

// The absolute path of a cgroup that a request names.
Result<std::string> cgroup_of(const std::string& path);

// Makes what is above the cgroup, with all controllers handed down. `made`: the directories made,
// innermost first. Undone on failure.
Status cgroup_make_parents(const std::string& path, std::vector<std::string>& made);
// Removes what `made` lists as far as it is empty.
void cgroup_unmake(const std::vector<std::string>& made);

// Those of `names` that are there.
Result<std::vector<File>> cgroup_read(const std::string& path,
                                      const std::vector<std::string>& names);

// In the cgroup and below.
std::vector<int> cgroup_pids(const std::string& path);
// All of them; SIGKILL misses nobody. Nothing to signal is fine.
Status cgroup_signal(const std::string& path, int signal);
uint64_t cgroup_oom_kills(const std::string& path);
bool cgroup_frozen(const std::string& path);

}  // namespace isopod::agent
