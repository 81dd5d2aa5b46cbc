#include "core/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <memory>

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
#include "core/poller.h"
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

class Launch : public std::enable_shared_from_this<Launch> {
 public:
  Launch(LaunchRequest request, std::function<void(Result<Launched>)> done)
      : request_(std::move(request)), done_(std::move(done)) {}

  // On a launcher.
  void start() {
    if (const char* why = plan::check_plan(request_.plan.data(), request_.plan.size());
        why != nullptr)
      return reject(Error{EINVAL, step_of(plan::kStepPlan), "", "", why, nullptr});
    if (!request_.cgroup.empty()) {
      Result<CgroupPlace> place = cgroup_prepare(request_.cgroup, request_.cgroup_writes, request_.device_program);
      if (!place) return reject(place.error());
      cgroup_ = std::move(place->fd);
      cgroup_made_ = place->made;
      cgroup_undo_ = std::move(place->undo);
    }
    if (Status status = clone(); !status) {
      blame_memory(status.error());
      undo_cgroup();
      return reject(status.error());
    }
    cgroup_.reset();
    auto self = shared_from_this();
    Poller::control().post([self] {
      Poller::control().watch(self->socket_.get(), EPOLLIN, [self](uint32_t) { self->readable(); });
    });
  }

 private:
  Status clone() {
    Result<int> image = request_.init_image ? Result<int>(request_.init_image.get()) : init_image();
    if (!image) return image.error();
    auto* header = reinterpret_cast<plan::Header*>(request_.plan.data());
    // These are ours to say, not the caller's.
    header->flags &= ~(plan::kFloor | plan::kNetnsMask << plan::kNetnsShift);
    if (!features().flags.at("overlayLowerdirAppend")) header->flags |= plan::kFloor;
    if ((header->clone_flags & CLONE_NEWNET) != 0) give_netns(*header);
    Result<UniqueFd> plan_file =
        data_file("isopod-plan", request_.plan.data(), request_.plan.size());
    if (!plan_file) return plan_file.error();
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
      return failure(errno, step_of(plan::kStepClone), "");
    socket_.reset(pair[0]);
    const UniqueFd theirs(pair[1]);

    ChildWork work;
    for (int fd = 0; fd < 3; fd++) work.sources[work.count++] = null_device();
    work.sources[work.count++] = plan_file->get();
    work.sources[work.count++] = theirs.get();
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

  // On the poller from here on.
  void readable() {
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

  // True if the launch is over.
  bool synced(uint32_t point) {
    if (point == plan::kExecuting) executing_ = true;
    if (point == plan::kReady && !request_.until_exec) {
      launched_.result = stop_listening();
      resolve();
      return true;
    }
    // Nothing to be done at PLACED and HOOKS yet: maps and hooks come with later features.
    if (point == plan::kPlaced || point == plan::kHooks) {
      const char go = 1;
      ::send(socket_.get(), &go, sizeof(go), MSG_NOSIGNAL);
    }
    return false;
  }

  void ended() {
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
    auto self = shared_from_this();
    Poller::control().watch(first_.get(), EPOLLIN, [self](uint32_t) {
      if (!reap(self->first_.get(), false)) return;
      Poller::control().unwatch(self->first_.get());
      self->first_.reset();
      const std::function<void()> end = std::move(self->when_first_is_gone_);
      self->when_first_is_gone_ = nullptr;  // it holds us
      if (end) end();
    });
  }

  // Ends the launch once no process but the launched one is left of it.
  void settle(std::function<void()> end) {
    if (first_)
      when_first_is_gone_ = std::move(end);
    else
      end();
  }

  void fail(Error error) {
    stop_listening();
    send_signal(launched_.pidfd.get(), SIGKILL);
    auto self = shared_from_this();
    error_ = std::move(error);
    Poller::control().watch(launched_.pidfd.get(), EPOLLIN, [self](uint32_t) {
      if (!reap(self->launched_.pidfd.get(), false)) return;
      Poller::control().unwatch(self->launched_.pidfd.get());
      self->undo_and_reject();
    });
  }

  void undo_and_reject() {
    if (!cgroup_made_ && cgroup_undo_.empty()) return reject(std::move(error_));
    auto self = shared_from_this();
    run_job([self] {
      self->blame_memory(self->error_);
      self->undo_cgroup();
      Poller::control().post([self] { self->reject(std::move(self->error_)); });
    });
  }

  // A stub that its own memory limit killed, or did not let execute, has no better way to say so.
  void blame_memory(Error& error) const {
    if (error.err != 0 && error.err != ENOMEM) return;
    if (request_.cgroup.empty() || !cgroup_lacked_memory(request_.cgroup)) return;
    error.why = "no memory is left within the limit of its cgroup: memory.max is too low";
    error.code = "RESOURCE_EXHAUSTED";
  }

  // Best effort: what could not be removed does not replace the error that matters.
  void undo_cgroup() {
    constexpr int kUndoMs = 5000;
    if (cgroup_made_)
      static_cast<void>(cgroup_destroy(request_.cgroup, kUndoMs).ok());
    else
      cgroup_restore(request_.cgroup, cgroup_undo_);
  }

  UniqueFd stop_listening() {
    Poller::control().unwatch(socket_.get());
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
    cgroup_.reset();
    auto self = shared_from_this();
    settle([self, error = std::move(error)] { self->done_(Result<Launched>(error)); });
  }

  LaunchRequest request_;
  std::function<void(Result<Launched>)> done_;
  UniqueFd cgroup_;
  bool cgroup_made_ = false;
  CgroupWrites cgroup_undo_;
  bool executing_ = false;
  UniqueFd socket_;
  UniqueFd first_;  // the stub that a successor has followed, until it is reaped
  std::function<void()> when_first_is_gone_;
  Launched launched_;
  Error error_;
};

}  // namespace

void launch(LaunchRequest request, std::function<void(Result<Launched>)> done) {
  auto work = std::make_shared<Launch>(std::move(request), std::move(done));
  on_launcher([work] { work->start(); });
}

void await_exec(UniqueFd result, std::function<void(Status)> done) {
  struct Waiter {
    UniqueFd socket;
    std::function<void(Status)> done;
    bool executing = false;
    bool finished = false;
  };
  auto waiter = std::make_shared<Waiter>();
  waiter->socket = std::move(result);
  waiter->done = std::move(done);
  const auto finish = [](const std::shared_ptr<Waiter>& self, Status status) {
    Poller::control().unwatch(self->socket.get());
    self->socket.reset();
    self->done(std::move(status));
  };
  const auto readable = [waiter, finish](uint32_t) {
    for (;;) {
      Heard heard = hear(waiter->socket.get());
      if (heard.kind == Heard::kNothing) return;
      if (heard.kind == Heard::kReport && heard.report.type == plan::kReportFailed)
        return finish(waiter, error_of(heard.report));
      if (heard.kind == Heard::kReport) {
        if (heard.report.type == plan::kReportSync && heard.report.value == plan::kExecuting)
          waiter->executing = true;
        continue;
      }
      if (waiter->executing) return finish(waiter, Done{});
      return finish(
          waiter, Error{0, "launch", "", "", "the init stub was killed before its exec", nullptr});
    }
  };
  Poller::control().post([waiter, readable] {
    if (!Poller::control().watch(waiter->socket.get(), EPOLLIN, readable))
      waiter->done(failure(errno, "exec", ""));
  });
}

}  // namespace isopod::core
