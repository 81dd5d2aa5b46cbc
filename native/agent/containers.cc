#include "agent/containers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cctype>
#include <utility>

#include "agent/cgroups.h"
#include "agent/job.h"
#include "core/cgroup.h"
#include "core/poller.h"
#include "core/report.h"

namespace isopod::agent {

// What a launch on its way holds, besides the container itself.
struct Containers::Launching {
  core::LaunchRequest request;
  StdioPorts ports;
  StdioEnds ends;
  UniqueFd gate;
  UniqueFd leader;                // of an exec: a pidfd
  std::vector<UniqueFd> leaders;  // of a container: what it joins
};

namespace {

using Launching = Containers::Launching;

constexpr int kDestroyMs = 10'000;
constexpr int kFreezeMs = 10'000;
// How long the end of a container waits for its execs, which are being killed.
constexpr int64_t kExecsMs = 5'000;
constexpr size_t kMaxId = 128;
constexpr size_t kMaxContainers = 1024;
constexpr size_t kMaxExecs = 1024;  // of one container, ended ones that were not deleted too

Error precondition(const std::string& id, std::string why) {
  return Error{0, "container", id, {}, std::move(why), "FAILED_PRECONDITION"};
}

// An id names nothing here, but it stands in texts and keys.
bool good_id(const std::string& id) {
  if (id.empty() || id.size() > kMaxId || id[0] == '.') return false;
  for (const char c : id)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 &&
        std::string("_.+-").find(c) == std::string::npos)
      return false;
  return true;
}

Error bad_id(const char* field, const std::string& id) {
  return Error{0, "request", field, id, "not an id", "INVALID_ARGUMENT"};
}

// Of the process that names its namespaces for another (setns(2) takes a pidfd).
Result<UniqueFd> leader(const Process& process) {
  UniqueFd fd(::fcntl(process.pidfd(), F_DUPFD_CLOEXEC, 3));
  if (!fd) return failure(errno, "launch", "");
  return fd;
}

// The descriptors that a plan's OPEN.fd names, in their order.
Status hand_over(Launching& work, UniqueFd first, UniqueFd gate) {
  std::vector<UniqueFd>& fds = work.request.fds;
  fds.push_back(std::move(first));
  for (UniqueFd& end : work.ends.theirs) fds.push_back(std::move(end));
  if (gate) fds.push_back(std::move(gate));
  for (UniqueFd& fd : work.leaders) fds.push_back(std::move(fd));
  if (fds.size() > plan::kMaxFds)
    return Error{0, "launch", {}, {}, "joins too many containers", "INVALID_ARGUMENT"};
  for (const UniqueFd& fd : fds)
    if (!fd) return failure(EMFILE, "launch", "");
  return Done{};
}

Status prepare_container(const Transport& transport, int base, Container& container,
                         Launching& work) {
  Result<StdioEnds> ends = open_stdio(transport, work.ports);
  if (!ends) return ends.error();
  work.ends = std::move(*ends);
  int gate[2];
  if (::pipe2(gate, O_CLOEXEC) < 0) return failure(errno, "gate", "");
  work.gate.reset(gate[1]);
  UniqueFd theirs(gate[0]);
  if (Status handed =
          hand_over(work, UniqueFd(::fcntl(base, F_DUPFD_CLOEXEC, 3)), std::move(theirs));
      !handed)
    return handed;
  // The cgroup itself is made, and furnished, by the launch.
  return cgroup_make_parents(container.cgroup, container.made);
}

Status prepare_exec(const Transport& transport, Launching& work) {
  Result<StdioEnds> ends = open_stdio(transport, work.ports);
  if (!ends) return ends.error();
  work.ends = std::move(*ends);
  return hand_over(work, std::move(work.leader), UniqueFd());
}

}  // namespace

Containers::Containers(const Transport& transport, UniqueFd base)
    : transport_(transport), base_(std::move(base)) {}

Containers::ContainerPtr Containers::find(const Call& call, const std::string& id) const {
  const auto found = containers_.find(id);
  if (found != containers_.end() && found->second->init) return found->second;
  call.fail(Error{0, "container", id, {}, "not found", "NOT_FOUND"});
  return nullptr;
}

std::shared_ptr<Process> Containers::find(const Call& call, const std::string& id,
                                          const std::string& exec_id) const {
  const ContainerPtr container = find(call, id);
  if (!container || exec_id.empty()) return container ? container->init : nullptr;
  const auto found = container->execs.find(exec_id);
  if (found != container->execs.end() && found->second) return found->second;
  call.fail(Error{0, "exec", exec_id, {}, "not found", "NOT_FOUND"});
  return nullptr;
}

// --- create and start ---

void Containers::create(const Call& call, CreateContainerRequest request) {
  if (!good_id(request.id)) return call.fail(bad_id("id", request.id));
  if (containers_.count(request.id) != 0)
    return call.fail(Error{0, "container", request.id, {}, "in use", "ALREADY_EXISTS"});
  if (containers_.size() >= kMaxContainers)
    return call.fail(Error{0, "container", request.id, {}, "too many", "RESOURCE_EXHAUSTED"});
  Result<std::string> cgroup = cgroup_of(request.cgroup);
  if (!cgroup) return call.fail(cgroup.error());
  auto work = std::make_shared<Launching>();
  for (const std::string& id : request.join) {
    const ContainerPtr other = find(call, id);
    if (!other) return;
    Result<UniqueFd> fd = leader(*other->init);
    if (!fd) return call.fail(fd.error());
    work->leaders.push_back(std::move(*fd));
  }
  auto container = std::make_shared<Container>();
  container->id = request.id;
  container->cgroup = *cgroup;
  containers_[request.id] = container;
  work->request.plan = std::move(request.plan);
  work->request.cgroup = *cgroup;
  work->request.device_program = std::move(request.device_program);
  work->ports = request.stdio;
  work->request.cgroup_writes = std::move(request.cgroup_writes);
  in_job([this, container,
          work] { return prepare_container(transport_, base_.get(), *container, *work); },
         [this, call, container, work](Status ready) {
           if (!ready) return undo(call, container, ready.error());
           core::launch(core::Poller::control(), std::move(work->request),
                        [=](Result<core::Launched> result) {
                          if (!result) return undo(call, container, result.error());
                          launched(call, container, std::move(*result), *work);
                        });
         });
}

void Containers::launched(const Call& call, const ContainerPtr& container, core::Launched launched,
                          Launching& work) {
  container->gate = std::move(work.gate);
  const std::weak_ptr<Container> weak = container;
  container->init = Process::adopt(std::move(launched), std::move(work.ends), [this, weak] {
    if (const ContainerPtr self = weak.lock()) init_ended(self);
  });
  call.reply(encode_process(container->init->pid()));
}

void Containers::undo(const Call& call, const ContainerPtr& container, const Error& error) {
  in_job(
      [container] {
        cgroup_unmake(container->made);
        return Done{};
      },
      [this, call, container, error](Done) {
        containers_.erase(container->id);
        call.fail(error);
      });
}

// A pid namespace of its own dies with its first process; a shared one does not. Each exec's end is
// told before the container's.
void Containers::init_ended(const ContainerPtr& container) {
  container->oom_kills = cgroup_oom_kills(container->cgroup);
  static_cast<void>(cgroup_signal(container->cgroup, SIGKILL).ok());
  for (const auto& [id, exec] : container->execs) {
    if (!exec || exec->told()) continue;
    struct Hold {
      std::shared_ptr<Process> init;
      bool over = false;
      void end() {
        if (!std::exchange(over, true)) init->release();
      }
    };
    auto hold = std::make_shared<Hold>();
    hold->init = container->init;
    hold->init->hold();
    exec->when_told([hold] { hold->end(); });
    core::Poller::control().after(kExecsMs, [hold] { hold->end(); });
  }
}

void Containers::start(const Call& call, const ProcessRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  if (container->started) return call.fail(precondition(request.id, "is started already"));
  UniqueFd result = container->init->take_result();
  // The stub holds the other end for as long as it waits.
  const UniqueFd gate = std::move(container->gate);
  if (!result || ::write(gate.get(), "\n", 1) != 1)
    return call.fail(precondition(request.id, "its process is gone"));
  container->started = true;
  core::await_exec(core::Poller::control(), std::move(result),
                   [call](Status done) { call.answer(std::move(done)); });
}

// --- exec ---

void Containers::exec(const Call& call, ExecRequest request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  const std::string exec_id = request.exec_id;
  if (!good_id(exec_id)) return call.fail(bad_id("exec_id", exec_id));
  if (container->execs.count(exec_id) != 0)
    return call.fail(Error{0, "exec", exec_id, {}, "in use", "ALREADY_EXISTS"});
  if (container->execs.size() >= kMaxExecs)
    return call.fail(Error{0, "exec", exec_id, {}, "too many", "RESOURCE_EXHAUSTED"});
  if (container->init->exited() || container->deleting)
    return call.fail(precondition(request.id, "is stopped: nothing can run in it"));
  // A stub that is cloned into a frozen cgroup would never get to its exec (R4).
  if (cgroup_frozen(container->cgroup))
    return call.fail(precondition(request.id, "is paused: nothing can be started in it"));
  auto work = std::make_shared<Launching>();
  Result<UniqueFd> fd = leader(*container->init);
  if (!fd) return call.fail(fd.error());
  work->leader = std::move(*fd);
  container->execs[exec_id] = nullptr;
  work->request.plan = std::move(request.plan);
  work->request.until_exec = true;
  work->ports = request.stdio;
  const auto finish = [=](Result<core::Launched> result) {
    if (result) return exec_launched(call, container, exec_id, std::move(*result), *work);
    container->execs.erase(exec_id);
    call.fail(result.error());
  };
  in_job([this, work] { return prepare_exec(transport_, *work); },
         [work, finish](Status ready) {
           if (!ready) return finish(ready.error());
           core::launch(core::Poller::control(), std::move(work->request), finish);
         });
}

void Containers::exec_launched(const Call& call, const ContainerPtr& container,
                               const std::string& exec_id, core::Launched launched,
                               Launching& work) {
  const auto exec = Process::adopt(std::move(launched), std::move(work.ends), nullptr);
  container->execs[exec_id] = exec;
  call.reply(encode_process(exec->pid()));
}

// --- running ones ---

void Containers::signal(const Call& call, const SignalRequest& request) {
  if (request.signal < 1 || request.signal > 64)
    return call.fail(Error{
        0, "signal", std::to_string(request.signal), {}, "no such signal", "INVALID_ARGUMENT"});
  const int number = static_cast<int>(request.signal);
  if (request.all) {
    const ContainerPtr container = find(call, request.id);
    if (container) call.answer(cgroup_signal(container->cgroup, number));
    return;
  }
  const std::shared_ptr<Process> process = find(call, request.id, request.exec_id);
  if (!process) return;
  const int err = process->exited() ? ESRCH : core::send_signal(process->pidfd(), number);
  if (err == 0) return call.reply();
  Error error = failure(err, "signal", request.exec_id.empty() ? request.id : request.exec_id);
  if (err == ESRCH) error.why = "process already finished";
  call.fail(error);
}

void Containers::wait(const Call& call, const ProcessRequest& request) {
  const std::shared_ptr<Process> process = find(call, request.id, request.exec_id);
  if (!process) return;
  const ContainerPtr container = containers_[request.id];
  const std::weak_ptr<Process> weak = process;
  process->when_told([call, container, weak] {
    const auto self = weak.lock();
    if (self)
      call.reply(encode_exit(self->exit().status, self->exit().exited_at, container->oom_kills));
  });
}

void Containers::resize(const Call& call, const ResizeRequest& request) {
  const std::shared_ptr<Process> process = find(call, request.id, request.exec_id);
  if (!process) return;
  if (request.rows > UINT16_MAX || request.columns > UINT16_MAX)
    return call.fail(Error{0, "resize", request.id, {}, "size out of range", "INVALID_ARGUMENT"});
  const int err = process->stdio().resize(request.rows, request.columns);
  err == 0 ? call.reply() : call.fail(failure(err, "resize", ""));
}

void Containers::close_stdin(const Call& call, const ProcessRequest& request) {
  const std::shared_ptr<Process> process = find(call, request.id, request.exec_id);
  if (!process) return;
  process->stdio().close_input();
  call.reply();
}

void Containers::freeze(const Call& call, const ProcessRequest& request, bool frozen) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  if (!container->started || container->init->exited())
    return call.fail(precondition(request.id, "is not running"));
  if (container->pausing || cgroup_frozen(container->cgroup) == frozen)
    return call.fail(precondition(request.id, frozen ? "is paused already" : "is not paused"));
  container->pausing = true;
  in_job([container, frozen] { return core::cgroup_freeze(container->cgroup, frozen, kFreezeMs); },
         [call, container](Status done) {
           container->pausing = false;
           call.answer(std::move(done));
         });
}

void Containers::update(const Call& call, const UpdateRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  in_job(
      [container, writes = request.writes] {
        return core::cgroup_write(container->cgroup, writes);
      },
      [call](Result<core::CgroupWrites> undo) { undo ? call.reply() : call.fail(undo.error()); });
}

void Containers::stats(const Call& call, const StatsRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  in_job([container, names = request.files] { return cgroup_read(container->cgroup, names); },
         [call](Result<std::vector<File>> files) {
           files ? call.reply(encode_files(*files)) : call.fail(files.error());
         });
}

void Containers::pids(const Call& call, const ProcessRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  std::map<int, std::string> execs;
  for (const auto& [id, exec] : container->execs)
    if (exec && !exec->exited()) execs[exec->pid()] = id;
  std::vector<PidEntry> all;
  for (const int pid : cgroup_pids(container->cgroup)) {
    const auto found = execs.find(pid);
    all.push_back(PidEntry{pid, found == execs.end() ? std::string() : found->second});
  }
  call.reply(encode_pids(all));
}

void Containers::wait_oom(const Call& call, const WaitOomRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (container) oom_.wait(call, container->cgroup, request.seen);
}

// --- the end ---

void Containers::remove(const Call& call, const ProcessRequest& request) {
  const ContainerPtr container = find(call, request.id);
  if (!container) return;
  if (!request.exec_id.empty()) {
    const std::shared_ptr<Process> exec = find(call, request.id, request.exec_id);
    if (!exec) return;
    if (!exec->exited()) return call.fail(precondition(request.exec_id, "is running"));
    container->execs.erase(request.exec_id);
    return call.reply(encode_exit(exec->exit().status, exec->exit().exited_at, 0));
  }
  if (container->deleting) return call.fail(precondition(request.id, "is being deleted"));
  if (container->started && !container->init->exited())
    return call.fail(precondition(request.id, "is running: kill it first"));
  container->deleting = true;
  core::send_signal(container->init->pidfd(), SIGKILL);
  container->init->when_told([this, call, container] { remove_container(call, container); });
}

void Containers::remove_container(const Call& call, const ContainerPtr& container) {
  const auto destroy = [container]() -> Status {
    Status gone = core::cgroup_destroy(container->cgroup, kDestroyMs);
    if (gone) cgroup_unmake(container->made);
    return gone;
  };
  in_job(destroy, [this, call, container](Status gone) {
    container->deleting = false;
    if (!gone) return call.fail(gone.error());
    oom_.forget(container->cgroup);
    const core::Exit& exit = container->init->exit();
    call.reply(
        encode_exit(exit.status, container->started ? exit.exited_at : 0, container->oom_kills));
    containers_.erase(container->id);
  });
}

void Containers::end(std::function<void()> done) {
  std::vector<ContainerPtr> all;
  for (const auto& [id, container] : containers_) all.push_back(container);
  const auto destroy = [all] {
    for (const ContainerPtr& container : all)
      static_cast<void>(cgroup_signal(container->cgroup, SIGKILL).ok());
    for (const ContainerPtr& container : all) {
      static_cast<void>(core::cgroup_destroy(container->cgroup, kDestroyMs).ok());
      cgroup_unmake(container->made);
    }
    return Done{};
  };
  in_job(destroy, [done = std::move(done)](Done) { done(); });
}

}  // namespace isopod::agent
