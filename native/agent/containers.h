// The containers of the guest and what runs in them: everything the service's calls about them do.
// On the control poller's thread; what waits is done by jobs and launchers, which post back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/messages.h"
#include "agent/oom.h"
#include "agent/process.h"
#include "agent/server.h"
#include "agent/transport.h"

namespace isopod::agent {

// Processes of it live in `cgroup`; `made` are the directories that go with it.
struct Container {
  std::string id;
  std::string cgroup;
  std::vector<std::string> made;
  std::shared_ptr<Process> init;  // null while it is being created
  UniqueFd gate;                  // one byte starts it
  bool started = false;
  bool pausing = false;
  bool deleting = false;
  uint64_t oom_kills = 0;                                 // read at the end of init
  std::map<std::string, std::shared_ptr<Process>> execs;  // null while one is being launched
};

class Containers {
 public:
  struct Launching;

  // `base`: the empty mount namespace that every container begins in (R8).
  Containers(const Transport& transport, UniqueFd base);

  void create(const Call& call, CreateContainerRequest request);
  void start(const Call& call, const ProcessRequest& request);
  void exec(const Call& call, ExecRequest request);
  void signal(const Call& call, const SignalRequest& request);
  void wait(const Call& call, const ProcessRequest& request);
  void resize(const Call& call, const ResizeRequest& request);
  void close_stdin(const Call& call, const ProcessRequest& request);
  void pause(const Call& call, const ProcessRequest& request) { freeze(call, request, true); }
  void resume(const Call& call, const ProcessRequest& request) { freeze(call, request, false); }
  void update(const Call& call, const UpdateRequest& request);
  void stats(const Call& call, const StatsRequest& request);
  void pids(const Call& call, const ProcessRequest& request);
  void remove(const Call& call, const ProcessRequest& request);
  void wait_oom(const Call& call, const WaitOomRequest& request);

  // Kills and removes all there is; `done` on the poller.
  void end(std::function<void()> done);

 private:
  using ContainerPtr = std::shared_ptr<Container>;

  void freeze(const Call& call, const ProcessRequest& request, bool frozen);
  // Fails the call and returns null if there is none.
  ContainerPtr find(const Call& call, const std::string& id) const;
  std::shared_ptr<Process> find(const Call& call, const std::string& id,
                                const std::string& exec_id) const;
  void launched(const Call& call, const ContainerPtr& container, core::Launched launched,
                Launching& work);
  // Of a create that failed: nothing is left when the call is answered.
  void undo(const Call& call, const ContainerPtr& container, const Error& error);
  void exec_launched(const Call& call, const ContainerPtr& container, const std::string& exec_id,
                     core::Launched launched, Launching& work);
  void init_ended(const ContainerPtr& container);
  void remove_container(const Call& call, const ContainerPtr& container);

  const Transport& transport_;
  UniqueFd base_;
  OomWatch oom_;
  std::map<std::string, ContainerPtr> containers_;
};

}  // namespace isopod::agent
