#include "monitor/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor/store.h"

namespace isopod::monitor {

namespace {

constexpr int kMaxRestarts = 5;
constexpr int64_t kRestartWindowMs = 60000;
constexpr int kStopTimeoutMs = 5000;
// Descriptors 0 to 2 and the server's 3 and 4 are fixed numbers; ours stay above them.
constexpr int kFirstFree = 10;

int64_t now_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

int64_t now_ms() { return now_ns(CLOCK_MONOTONIC) / 1000000; }

bool write_score(int score) {
  UniqueFd file(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  Text<16> text;
  text << static_cast<int64_t>(score);
  return file && write(file.get(), text.c_str(), text.size()) > 0;
}

// As low as we may: without CAP_SYS_RESOURCE the kernel takes no less than the lowest value that a
// privileged writer once set for us (oom_score_adj_min), which can be read nowhere.
void lower_oom_score() {
  if (write_score(-1000)) return;
  char content[16] = {};
  read_small("/proc/self/oom_score_adj", content, sizeof content - 1);
  int refused = -1000;
  int taken = atoi(content);
  while (taken - refused > 1) {
    const int middle = refused + (taken - refused) / 2;
    if (write_score(middle)) {
      taken = middle;
    } else {
      refused = middle;
    }
  }
}

UniqueFd above_fixed(UniqueFd fd) {
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstFree));
}

// stdin and stdout: /dev/null. stderr: the bundle's `log` FIFO, opened for both ends so that neither a
// missing nor a restarting reader can block, break or end it; what nobody reads is dropped at 64 KiB.
void settle_stdio() {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  UniqueFd log(open("log", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(log ? log.get() : null, STDERR_FILENO);
  if (null > STDERR_FILENO) close(null);
}

// Whatever else the launcher was given, on purpose or not, ends here.
UniqueFd keep_only(UniqueFd fd) {
  UniqueFd kept = above_fixed(std::move(fd));
  const auto keep = static_cast<unsigned>(kept.get());
  syscall(SYS_close_range, STDERR_FILENO + 1U, keep - 1, 0U);
  syscall(SYS_close_range, keep + 1, ~0U, 0U);
  return kept;
}

class Supervisor {
 public:
  Supervisor(const Supervision& what, UniqueFd listener)
      : what_(what), listener_(std::move(listener)), store_(records_of(what.socket.view()).view()) {}

  [[noreturn]] void run();

 private:
  void spawn();
  [[noreturn]] void become_server(int store_end);
  void handle_signals();
  void reap();
  void server_ended(const siginfo_t& info);
  bool may_restart();
  void begin_stop();
  bool finish();
  [[noreturn]] void reap_to_the_end();
  void say(std::string_view text, int64_t number);

  const Supervision what_;
  UniqueFd listener_;
  UniqueFd signals_;
  Store store_;
  sigset_t old_mask_ = {};
  pid_t server_ = 0;
  int64_t restarts_[kMaxRestarts] = {};
  int restart_count_ = 0;
  bool stopping_ = false;
  int64_t kill_at_ = 0;
};

void Supervisor::run() {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&mask, signal);
  sigprocmask(SIG_BLOCK, &mask, &old_mask_);
  signals_ = above_fixed(UniqueFd(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK)));
  spawn();
  for (;;) {
    // An absent store polls as -1, which poll(2) skips.
    pollfd ready[2] = {{signals_.get(), POLLIN, 0},
                       {store_.socket(), static_cast<short>(store_.sending() ? POLLIN | POLLOUT : POLLIN), 0}};
    const int64_t left = kill_at_ == 0 ? -1 : kill_at_ - now_ms();
    const int timeout = kill_at_ == 0 ? -1 : static_cast<int>(left > 0 ? left : 0);
    if (poll(ready, 2, timeout) == 0 && server_ > 0) {
      kill(server_, SIGKILL);
      kill_at_ = 0;
    }
    if ((ready[1].revents & POLLOUT) != 0) store_.send();
    if ((ready[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !store_.receive()) store_.detach();
    if ((ready[0].revents & POLLIN) != 0) handle_signals();
  }
}

void Supervisor::spawn() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    say("making the store's sockets: errno", errno);
    _exit(1);
  }
  UniqueFd ours = above_fixed(UniqueFd(ends[0]));
  UniqueFd theirs = above_fixed(UniqueFd(ends[1]));
  server_ = fork();
  if (server_ == 0) become_server(theirs.get());
  if (server_ < 0) {
    say("forking the server: errno", errno);
    _exit(1);
  }
  theirs.reset();
  store_.attach(std::move(ours));
}

void Supervisor::become_server(int store_end) {
  setpgid(0, 0);
  sigprocmask(SIG_SETMASK, &old_mask_, nullptr);
  // dup2 clears close-on-exec: these two are all that the server inherits besides 0 to 2.
  dup2(listener_.get(), kListenFd);
  dup2(store_end, kStoreFd);
  const Invocation& invocation = *what_.invocation;
  PathText address(invocation.address);
  PathText ttrpc(what_.bootstrap->ttrpc_address);
  if (ttrpc.empty()) {
    const char* given = getenv("TTRPC_ADDRESS");
    if (given != nullptr) {
      ttrpc << given;
    } else if (!address.empty()) {
      ttrpc << address.view() << ".ttrpc";
    }
  }
  PathText ns(invocation.namespace_name);
  const char* arguments[] = {
      // A small young generation is collected often and quickly: the heap of many pods stays level.
      "node", "--max-semi-space-size=2", what_.program->server.c_str(),
      "-namespace", ns.c_str(),
      "-socket", what_.socket.c_str(),
      "-events", ttrpc.c_str(),
      "-group", what_.bootstrap->node_group ? "node" : "pod",
      restart_count_ > 0 ? "-restarted" : "-fresh",
      invocation.debug || what_.bootstrap->debug ? "-debug" : nullptr,
      nullptr};
  execve(what_.program->node.c_str(), const_cast<char* const*>(arguments), scrubbed_environment());
  _exit(127);
}

void Supervisor::handle_signals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue;
    begin_stop();
  }
  reap();
}

// The exit record is written before the reap: while the zombie is there its pid names nothing else, and
// whoever sees the process gone finds the record.
void Supervisor::reap() {
  // A TASK that is still under way may name the process that just ended.
  if (store_.socket() >= 0 && !store_.receive()) store_.detach();
  for (;;) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return;
    const int status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    if (info.si_pid != server_) store_.record_exit(info.si_pid, status, now_ns(CLOCK_REALTIME));
    waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED);
    if (info.si_pid == server_) server_ended(info);
  }
}

void Supervisor::server_ended(const siginfo_t& info) {
  server_ = 0;
  kill_at_ = 0;
  store_.receive();  // what it said last counts
  store_.detach();
  const bool clean = info.si_code == CLD_EXITED && info.si_status == 0;
  if (clean || stopping_) {
    if (finish()) _exit(0);
    spawn();
    return;
  }
  say(info.si_code == CLD_EXITED ? "the server ended with exit code" : "the server ended by signal",
      info.si_status);
  if (may_restart()) {
    spawn();
    return;
  }
  say("the server crashed too often, giving up; restarts in the last minute:", kMaxRestarts);
  unlink(what_.socket.c_str());
  listener_.reset();
  reap_to_the_end();
}

bool Supervisor::may_restart() {
  int64_t& oldest = restarts_[restart_count_ % kMaxRestarts];
  if (restart_count_ >= kMaxRestarts && now_ms() - oldest < kRestartWindowMs) return false;
  oldest = now_ms();
  ++restart_count_;
  return true;
}

void Supervisor::begin_stop() {
  stopping_ = true;
  kill_at_ = now_ms() + kStopTimeoutMs;
  if (server_ > 0) kill(server_, SIGTERM);
}

// Takes the socket away, unless somebody connected in the meantime who was told this address: then false.
// Under the lock nobody can find the socket alive and lose it before connecting.
bool Supervisor::finish() {
  const UniqueFd lock = lock_sockets(*what_.place);
  pollfd pending = {listener_.get(), POLLIN, 0};
  if (!stopping_ && poll(&pending, 1, 0) == 1) return false;
  unlink(what_.socket.c_str());
  listener_.reset();
  // Records of containers that live on stay, and with them the directory.
  rmdir(records_of(what_.socket.view()).c_str());
  return true;
}

// No server any more, but containers: their exits are still recorded, so that `delete` can tell them.
void Supervisor::reap_to_the_end() {
  for (;;) {
    siginfo_t info = {};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) != 0) {
      if (errno == EINTR) continue;
      _exit(0);
    }
    const int status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    store_.record_exit(info.si_pid, status, now_ns(CLOCK_REALTIME));
    waitid(P_PID, static_cast<id_t>(info.si_pid), &info, WEXITED);
  }
}

void Supervisor::say(std::string_view text, int64_t number) {
  Text<512> line;
  line << R"({"level":"error","name":"monitor","msg":")" << text << " " << number << "\"}\n";
  // stderr does not block; a full log loses the line.
  if (write(STDERR_FILENO, line.c_str(), line.size()) < 0) return;
}

}  // namespace

void supervise(const Supervision& what, UniqueFd listener) {
  setsid();
  settle_stdio();
  if (chdir("/") != 0) _exit(1);
  umask(022);
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "isopod-monitor");
  lower_oom_score();
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  Supervisor(what, keep_only(std::move(listener))).run();
}

}  // namespace isopod::monitor
