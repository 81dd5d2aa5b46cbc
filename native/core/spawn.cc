#include "core/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <memory>

#include "base/kernel.h"
#include "core/child.h"
#include "core/launcher.h"
#include "core/poller.h"
#include "core/process.h"

namespace isopod::core {

namespace {

constexpr size_t kMaxFds = 64;

// --- in the child ---

struct ChildWork {
  const char* file;
  const char* const* arguments;
  const char* const* environment;
  const char* cwd;
  int stdio[3];
  struct {
    int number;
    int source;
  } fds[kMaxFds];
  size_t fd_count;
  long error;
};

// Sources may sit on numbers that others are to get: all are moved above every target first.
long place(ChildWork& work) {
  int above = 3;
  for (size_t i = 0; i < work.fd_count; i++)
    if (work.fds[i].number >= above) above = work.fds[i].number + 1;
  for (size_t i = 0; i < work.fd_count; i++) {
    const long high = sys::fcntl(work.fds[i].source, F_DUPFD_CLOEXEC, above);
    if (high < 0) return high;
    work.fds[i].source = static_cast<int>(high);
  }
  if (const long error = place_descriptors(work.stdio, 3, -1); error < -1) return error;
  // Whatever Node or one of its libraries left inheritable stays here; only what was asked for is
  // given.
  if (const long error = sys::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); error < 0) return error;
  for (size_t i = 0; i < work.fd_count; i++)
    if (const long error = sys::dup3(work.fds[i].source, work.fds[i].number, 0); error < 0)
      return error;
  return 0;
}

void become_program(void* data) {
  auto* work = static_cast<ChildWork*>(data);
  long error = sys::raw(SYS_setpgid, 0, 0);
  if (error >= 0 && *work->cwd != 0) error = sys::chdir(work->cwd);
  if (error >= 0) error = place(*work);
  if (error >= 0) {
    reset_signals();
    error = sys::raw(SYS_execve, sys::word(work->file), sys::word(work->arguments),
                     sys::word(work->environment));
  }
  work->error = error;
  sys::exit_group(127);
}

std::vector<const char*> pointers(const std::vector<std::string>& strings) {
  std::vector<const char*> out;
  for (const std::string& text : strings) out.push_back(text.c_str());
  out.push_back(nullptr);
  return out;
}

// --- one run ---

class Run : public std::enable_shared_from_this<Run> {
 public:
  Run(SpawnRequest request, std::function<void(Result<Spawned>)> done)
      : request_(std::move(request)), done_(std::move(done)) {}

  // On a launcher.
  void start() {
    UniqueFd theirs[3];
    if (Status status = pipes(theirs); !status) return done_(status.error());
    const std::vector<const char*> arguments = pointers(request_.args),
                                   environment = pointers(request_.env);
    ChildWork work{};
    work.file = request_.file.c_str();
    work.arguments = arguments.data();
    work.environment = environment.data();
    work.cwd = request_.cwd.c_str();
    for (int i = 0; i < 3; i++) work.stdio[i] = theirs[i].get();
    for (const auto& [number, fd] : request_.fds) work.fds[work.fd_count++] = {number, fd.get()};
    Child child = clone_child(0, -1, become_program, &work);
    if (child.pid < 0) return done_(failure(child.err, "spawn", request_.file));
    pid_ = child.pid;
    pidfd_ = std::move(child.pidfd);
    if (work.error < 0) {
      reap(pidfd_.get(), true);
      return done_(failure(static_cast<int>(-work.error), "spawn", request_.file));
    }
    request_.fds.clear();
    auto self = shared_from_this();
    Poller::control().post([self] { self->listen(); });
  }

 private:
  Status pipes(UniqueFd (&theirs)[3]) {
    int pair[2];
    if (request_.fds.size() > kMaxFds) return failure(E2BIG, "spawn", request_.file);
    if (request_.has_stdin) {
      if (::pipe2(pair, O_CLOEXEC) < 0) return failure(errno, "spawn", request_.file);
      theirs[0].reset(pair[0]);
      input_.reset(pair[1]);
      ::fcntl(input_.get(), F_SETFL, O_NONBLOCK);
    } else {
      theirs[0].reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    for (int i = 1; i < 3; i++) {
      if (::pipe2(pair, O_CLOEXEC) < 0) return failure(errno, "spawn", request_.file);
      output_[i - 1].reset(pair[0]);
      theirs[i].reset(pair[1]);
      ::fcntl(output_[i - 1].get(), F_SETFL, O_NONBLOCK);
    }
    return Done{};
  }

  // On the poller from here on.
  void listen() {
    Poller& poller = Poller::control();
    auto self = shared_from_this();
    for (int i = 0; i < 2; i++)
      poller.watch(output_[i].get(), EPOLLIN, [self, i](uint32_t) { self->drain(i); });
    if (input_) poller.watch(input_.get(), EPOLLOUT, [self](uint32_t) { self->feed(); });
    poller.watch(pidfd_.get(), EPOLLIN, [self](uint32_t) { self->ended(); });
    deadline_ = poller.after(request_.timeout_ms, [self] {
      self->result_.timed_out = true;
      // Not reaped yet, so the number still names this group.
      ::kill(-self->pid_, SIGKILL);
    });
  }

  void feed() {
    while (written_ < request_.input.size()) {
      const ssize_t n =
          ::write(input_.get(), request_.input.data() + written_, request_.input.size() - written_);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) break;  // it does not read on: not our failure
      written_ += static_cast<size_t>(n);
    }
    close(input_);
  }

  void drain(int i) {
    std::string& kept = i == 0 ? result_.out : result_.err;
    char buffer[16384];
    for (;;) {
      const ssize_t n = ::read(output_[i].get(), buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) return close(output_[i]);
      const size_t room = request_.max_output - std::min(kept.size(), request_.max_output);
      kept.append(buffer, std::min(static_cast<size_t>(n), room));
    }
  }

  void close(UniqueFd& fd) {
    if (!fd) return;
    Poller::control().unwatch(fd.get());
    fd.reset();
  }

  void ended() {
    siginfo_t info{};
    if (::waitid(static_cast<idtype_t>(3), static_cast<id_t>(pidfd_.get()), &info,
                 WEXITED | WNOHANG | __WALL) == 0 &&
        info.si_pid == 0)
      return;
    result_.status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    Poller::control().cancel(deadline_);
    close(pidfd_);
    close(input_);
    for (int i = 0; i < 2; i++) {
      if (output_[i]) drain(i);
      close(output_[i]);
    }
    done_(std::move(result_));
  }

  SpawnRequest request_;
  std::function<void(Result<Spawned>)> done_;
  int pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd input_;
  UniqueFd output_[2];
  size_t written_ = 0;
  Poller::Timer deadline_;
  Spawned result_;
};

}  // namespace

void spawn(SpawnRequest request, std::function<void(Result<Spawned>)> done) {
  auto run = std::make_shared<Run>(std::move(request), std::move(done));
  on_launcher([run] { run->start(); });
}

}  // namespace isopod::core
