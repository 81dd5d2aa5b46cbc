#include "core/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <memory>
#include <mutex>

#include "base/kernel.h"
#include "core/cgroup.h"
#include "core/cgroup_place.h"
#include "core/child.h"
#include "core/error_text.h"
#include "core/host.h"
#include "core/jobs.h"
#include "core/launcher.h"
#include "core/memfd.h"
#include "core/netns_spare.h"
#include "core/plan_check.h"
#include "core/process.h"
#include "core/report.h"

namespace isopod::core {

namespace {

using plan::Report;

// --- in the child ---

struct ChildWork {
  int sources[plan::kFirstFd + plan::kMaxFds + 1];  // and a network namespace
  int count = 0;
  int image = -1;
  long error = 0;  // written by the child, whose memory is ours until it executes
};

// The environment is empty, or /proc/1/environ in the container would show Node's.
void become_stub(void* data) {
  auto* work = static_cast<ChildWork*>(data);
  static const char name[] = "isopod-init";
  const char* arguments[] = {name, nullptr};
  const char* environment[] = {nullptr};
  long result = place_descriptors(work->sources, work->count, work->image);
  // What Node or a library of its left inheritable is closed by the exec.
  if (result >= 0) sys::close_range(static_cast<unsigned>(work->count), ~0u, CLOSE_RANGE_CLOEXEC);
  if (result >= 0)
    result = sys::raw(SYS_execveat, result, sys::word(""), sys::word(arguments),
                      sys::word(environment), AT_EMPTY_PATH);
  work->error = result;
  sys::exit_group(127);
}

int null_device() {
  static const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  return fd;
}

// --- what the stub says ---

struct Heard {
  enum { kNothing, kEnd, kReport } kind = kNothing;
  Report report{};
  UniqueFd fd;
};

Heard hear(int socket) {
  Heard heard;
  iovec vector{&heard.report, sizeof(heard.report)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return heard;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); size > 0 && header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    int fd = -1;
    memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) heard.fd.reset(fd);
  }
  // A reset by a stub that was killed is an end as well.
  heard.kind = size == static_cast<ssize_t>(sizeof(Report)) ? Heard::kReport : Heard::kEnd;
  return heard;
}

// --- one launch ---

// Best effort: what could not be removed does not replace the error that matters.
void undo_cgroup_of(const std::string& cgroup, bool made, const CgroupWrites& before) {
  constexpr int kUndoMs = 5000;
  if (made)
    static_cast<void>(cgroup_destroy(cgroup, kUndoMs).ok());
  else if (!before.empty())
    cgroup_restore(cgroup, before);
}

class Launch : public std::enable_shared_from_this<Launch> {
 public:
  Launch(Loop& loop, LaunchRequest request, std::function<void(Result<Launched>)> done)
      : loop_(loop), request_(std::move(request)), done_(std::move(done)) {}
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // The loop closed before the end: nobody will hear of this process, so it goes.
  ~Launch() {
    if (!launched_.pidfd) return;
    auto left = std::make_shared<Launched>(std::move(launched_));
    send_signal(left->pidfd.get(), SIGKILL);
    run_job([left, cgroup = request_.cgroup, made = cgroup_made_, undo = cgroup_undo_,
             unplace = placing_ ? request_.unplace : nullptr] {
      reap(left->pidfd.get(), true);
      undo_cgroup_of(cgroup, made, undo);
      if (unplace) unplace([] {});
    });
  }

  // On the loop.
  void start() {
    if (const char* why = plan::check_plan(request_.plan.data(), request_.plan.size());
        why != nullptr)
      return reject(Error{EINVAL, step_of(plan::kStepPlan), "", "", why, nullptr});
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
      return reject(failure(errno, step_of(plan::kStepClone), ""));
    socket_.reset(pair[0]);
    theirs_.reset(pair[1]);
    if (!listen()) return reject(failure(errno, step_of(plan::kStepClone), ""));
    auto self = shared_from_this();
    on_launcher([self] { self->make(); });
  }

 private:
  bool listen() {
    auto self = shared_from_this();
    const uint32_t events = only_end_matters() ? EPOLLRDHUP : EPOLLIN;
    return loop_.watch(socket_.get(), events, [self](uint32_t) { self->readable(); });
  }

  // Until the exec the stub is only answered at sync points. Where it has none, all it says may as
  // well be read at the end: what wakes this thread for nothing also costs the stub.
  bool only_end_matters() const {
    if (!request_.until_exec || request_.place) return false;
    const plan::View view(request_.plan.data());
    for (uint32_t i = 0; i < view.header().op_count; i++)
      if (view.op(i).op == plan::kOpSync) return false;
    return true;
  }

  // On a launcher. What comes of it is handed over under the mutex; the loop hears of it by the
  // stub's first word, or by the end of file if there is no stub.
  void make() {
    Status status = prepare();
    if (status && !(status = clone())) {
      blame_memory(status.error());
      undo_cgroup();
    }
    cgroup_.reset();
    // Closed when we are done with everything else: the end of file may bring the loop to its end.
    UniqueFd theirs = std::move(theirs_);
    bool awaited;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      made_ = true;
      if (!status) error_ = std::move(status.error());
      failed_ = !status;
      awaited = awaited_;
    }
    auto self = shared_from_this();
    if (awaited) loop_.post([self] { self->resume(); });
  }

  Status prepare() {
    if (request_.cgroup.empty() || request_.place) return Done{};
    Result<CgroupPlace> place =
        cgroup_prepare(request_.cgroup, request_.cgroup_writes, request_.device_program);
    if (!place) return place.error();
    cgroup_ = std::move(place->fd);
    cgroup_made_ = place->made;
    cgroup_undo_ = std::move(place->undo);
    return Done{};
  }

  Status clone() {
    Result<int> image = request_.init_image ? Result<int>(request_.init_image.get()) : init_image();
    if (!image) return image.error();
    auto* header = reinterpret_cast<plan::Header*>(request_.plan.data());
    // These are ours to say, not the caller's.
    header->flags &= ~(plan::kFloor | plan::kPlace | plan::kNetnsMask << plan::kNetnsShift);
    if (!features().flags.at("overlayLowerdirAppend")) header->flags |= plan::kFloor;
    if (request_.place) header->flags |= plan::kPlace;
    if ((header->clone_flags & CLONE_NEWNET) != 0) give_netns(*header);
    Result<UniqueFd> plan_file =
        data_file("isopod-plan", request_.plan.data(), request_.plan.size());
    if (!plan_file) return plan_file.error();

    ChildWork work;
    for (int fd = 0; fd < 3; fd++) work.sources[work.count++] = null_device();
    work.sources[work.count++] = plan_file->get();
    work.sources[work.count++] = theirs_.get();
    for (const UniqueFd& fd : request_.fds) work.sources[work.count++] = fd.get();
    work.image = *image;
    Child child = clone_child(header->clone_flags, cgroup_.get(), become_stub, &work);
    if (child.pid < 0) return failure(child.err, step_of(plan::kStepClone), request_.cgroup);
    if (work.error < 0) {
      reap(child.pidfd.get(), true);
      return failure(static_cast<int>(-work.error), step_of(plan::kStepStub), "");
    }
    launched_.pid = child.pid;
    launched_.pidfd = std::move(child.pidfd);
    return Done{};
  }

  void give_netns(plan::Header& header) {
    UniqueFd spare = take_spare_netns();
    if (!spare) return;
    request_.fds.push_back(std::move(spare));
    header.flags |= static_cast<uint32_t>(request_.fds.size()) << plan::kNetnsShift;
    header.clone_flags &= ~static_cast<uint32_t>(CLONE_NEWNET);
  }

  // On the loop from here on.
  void readable() {
    if (!known()) return loop_.unwatch(socket_.get());
    for (;;) {
      Heard heard = hear(socket_.get());
      if (heard.kind == Heard::kNothing) return;
      if (heard.kind == Heard::kEnd) return ended();
      switch (heard.report.type) {
        case plan::kReportSync:
          if (synced(heard.report.value)) return;
          break;
        case plan::kReportFailed:
          return fail(error_of(heard.report));
        case plan::kReportPty:
          launched_.pty = std::move(heard.fd);
          break;
        case plan::kReportSuccessor:
          succeeded_by(static_cast<int>(heard.report.value), std::move(heard.fd));
          break;
        default:
          break;
      }
    }
  }

  // Whether the launcher has said what it made. The stub may be quicker: then the launcher, which
  // has got no processor since, posts when it has.
  bool known() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!made_) awaited_ = true;
    return made_;
  }

  void resume() {
    if (listen()) return;
    if (failed_) return reject(std::move(error_));
    fail(failure(errno, step_of(plan::kStepClone), ""));
  }

  // True if the launch is over.
  bool synced(uint32_t point) {
    if (point == plan::kExecuting) executing_ = true;
    if (point == plan::kReady && !request_.until_exec) {
      launched_.result = stop_listening();
      resolve();
      return true;
    }
    // Nothing to be done at HOOKS yet: they come with a later feature.
    if (point == plan::kPlaced && request_.place)
      place();
    else if (point == plan::kPlaced || point == plan::kHooks)
      go_on();
    return false;
  }

  void go_on() {
    const char go = 1;
    ::send(socket_.get(), &go, sizeof(go), MSG_NOSIGNAL);
  }

  void place() {
    placing_ = true;
    auto self = shared_from_this();
    request_.place(launched_.pid, [self](Status status) {
      auto outcome = std::make_shared<Status>(std::move(status));
      self->loop_.post([self, outcome] {
        if (!self->socket_) return;  // it has failed meanwhile
        if (!*outcome) return self->fail(std::move(outcome->error()));
        self->go_on();
      });
    });
  }

  void ended() {
    if (failed_) {
      stop_listening();
      return reject(std::move(error_));
    }
    if (executing_ && request_.until_exec) {
      stop_listening();
      return resolve();
    }
    fail(Error{0, "launch", "", "", "the init stub was killed", nullptr});
  }

  // The first stub exits by itself; it is ours to reap, and nobody else knows of it.
  void succeeded_by(int pid, UniqueFd pidfd) {
    first_ = std::move(launched_.pidfd);
    launched_.pid = pid;
    launched_.pidfd = std::move(pidfd);
  }

  // Ends the launch once no process but the launched one is left of it.
  void settle(std::function<void()> end) {
    if (first_ && !reap(first_.get(), false)) return when_gone(first_, std::move(end));
    first_.reset();
    end();
  }

  // Reaps the child behind `pidfd`, a member, when it has ended.
  void when_gone(UniqueFd& pidfd, std::function<void()> then) {
    auto self = shared_from_this();
    loop_.watch(pidfd.get(), EPOLLIN, [self, &pidfd, then = std::move(then)](uint32_t) {
      if (!reap(pidfd.get(), false)) return;
      self->loop_.unwatch(pidfd.get());
      pidfd.reset();
      then();
    });
  }

  void fail(Error error) {
    stop_listening();
    send_signal(launched_.pidfd.get(), SIGKILL);
    error_ = std::move(error);
    when_gone(launched_.pidfd, [this] { undo_and_reject(); });
  }

  void undo_and_reject() {
    auto self = shared_from_this();
    if (placing_) {
      blame_memory(error_);
      return request_.unplace(
          [self] { self->loop_.post([self] { self->reject(std::move(self->error_)); }); });
    }
    if (!cgroup_made_ && cgroup_undo_.empty()) return reject(std::move(error_));
    run_job([self] {
      self->blame_memory(self->error_);
      self->undo_cgroup();
      self->loop_.post([self] { self->reject(std::move(self->error_)); });
    });
  }

  // A stub that its own memory limit killed, or did not let execute, has no better way to say so.
  void blame_memory(Error& error) const {
    if (error.err != 0 && error.err != ENOMEM) return;
    if (request_.cgroup.empty() || !cgroup_lacked_memory(request_.cgroup)) return;
    error.why = "no memory is left within the limit of its cgroup: memory.max is too low";
    error.code = "RESOURCE_EXHAUSTED";
  }

  void undo_cgroup() { undo_cgroup_of(request_.cgroup, cgroup_made_, cgroup_undo_); }

  UniqueFd stop_listening() {
    loop_.unwatch(socket_.get());
    return std::move(socket_);
  }

  // Whatever was held for the launch is closed before the caller hears of its end.
  void resolve() {
    auto self = shared_from_this();
    settle([self] {
      self->request_ = LaunchRequest();
      self->done_(Result<Launched>(std::move(self->launched_)));
    });
  }
  void reject(Error error) {
    request_ = LaunchRequest();
    launched_ = Launched();
    socket_.reset();
    theirs_.reset();
    auto self = shared_from_this();
    settle([self, error = std::move(error)] { self->done_(Result<Launched>(error)); });
  }

  Loop& loop_;
  LaunchRequest request_;
  std::function<void(Result<Launched>)> done_;
  UniqueFd socket_;
  UniqueFd theirs_;  // the stub's end, until there is a stub
  UniqueFd cgroup_;
  bool cgroup_made_ = false;
  CgroupWrites cgroup_undo_;
  bool placing_ = false;
  bool executing_ = false;
  UniqueFd first_;  // the stub that a successor has followed, until it is reaped
  Launched launched_;
  Error error_;
  std::mutex mutex_;  // of what the launcher and the loop tell each other
  bool made_ = false;
  bool failed_ = false;
  bool awaited_ = false;
};

}  // namespace

void launch(Loop& loop, LaunchRequest request, std::function<void(Result<Launched>)> done) {
  std::make_shared<Launch>(loop, std::move(request), std::move(done))->start();
}

void await_exec(Loop& loop, UniqueFd result, std::function<void(Status)> done) {
  struct Waiter {
    Loop& loop;
    UniqueFd socket;
    std::function<void(Status)> done;
    bool executing = false;

    void readable() {
      for (;;) {
        Heard heard = hear(socket.get());
        if (heard.kind == Heard::kNothing) return;
        if (heard.kind == Heard::kEnd) return ended();
        if (heard.report.type == plan::kReportFailed) return finish(error_of(heard.report));
        if (heard.report.type == plan::kReportSync && heard.report.value == plan::kExecuting)
          executing = true;
      }
    }
    void ended() {
      if (executing) return finish(Done{});
      finish(Error{0, "launch", "", "", "the init stub was killed before its exec", nullptr});
    }
    void finish(Status status) {
      loop.unwatch(socket.get());
      socket.reset();
      done(std::move(status));
    }
  };
  auto waiter = std::make_shared<Waiter>(Waiter{loop, std::move(result), std::move(done)});
  // Whatever the stub says is read at its end.
  if (!loop.watch(waiter->socket.get(), EPOLLRDHUP, [waiter](uint32_t) { waiter->readable(); }))
    waiter->done(failure(errno, "exec", ""));
}

}  // namespace isopod::core
