#include "core/process.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "core/poller.h"

namespace isopod::core {

namespace {

constexpr auto kPidfd = static_cast<idtype_t>(3);  // P_PIDFD
constexpr int kLostStatus = 255;                   // nobody can say how it ended
constexpr int64_t kRecordWaitMs = 1000;
constexpr int64_t kRecordRetryMs = 20;

int status_of(const siginfo_t& info) {
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

// {"status":N,"exitedAt":"ns"}, complete at its name or not there at all. False with errno.
bool write_record(const std::string& path, const Exit& exit) {
  char line[96];
  const int size = snprintf(line, sizeof(line), "{\"status\":%d,\"exitedAt\":\"%" PRId64 "\"}\n",
                            exit.status, exit.exited_at);
  const std::string temporary = path + ".tmp";
  {
    const UniqueFd fd(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) return false;
    if (::write(fd.get(), line, static_cast<size_t>(size)) != size)
      return ::unlink(temporary.c_str()), errno = EIO, false;
  }
  return ::rename(temporary.c_str(), path.c_str()) == 0;
}

bool read_record(const std::string& path, Exit& exit) {
  FILE* file = ::fopen(path.c_str(), "re");
  if (file == nullptr) return false;
  const bool good = ::fscanf(file, "{\"status\":%d,\"exitedAt\":\"%" SCNd64 "\"}", &exit.status,
                             &exit.exited_at) == 2;
  ::fclose(file);
  return good;
}

class Waiter : public std::enable_shared_from_this<Waiter> {
 public:
  Waiter(Loop& loop, ExitWait wait, std::function<void(Result<Exit>)> done)
      : loop_(loop), wait_(std::move(wait)), done_(std::move(done)) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  ~Waiter() {
    if (!wait_.pidfd || !wait_.child || &loop_ == &Poller::control()) return;
    auto left = std::make_shared<ExitWait>(std::move(wait_));
    Poller::control().post(
        [left] { await_exit(Poller::control(), std::move(*left), [](Result<Exit>) {}); });
  }

  void begin() {
    auto self = shared_from_this();
    if (!loop_.watch(wait_.pidfd.get(), EPOLLIN, [self](uint32_t) { self->ended(); }))
      finish(failure(errno, "wait", ""));
  }

 private:
  void ended() {
    siginfo_t info{};
    int got = wait_.child ? ::waitid(kPidfd, static_cast<id_t>(wait_.pidfd.get()), &info,
                                     WEXITED | WNOHANG | WNOWAIT | __WALL)
                          : -1;
    if (got == 0 && info.si_pid == 0) return;  // not yet
    loop_.unwatch(wait_.pidfd.get());
    // ECHILD: not ours to reap. The monitor writes the record.
    if (got < 0) return expect_record();
    const Exit exit{status_of(info), wall_ns()};
    // A record that cannot be written must not leave a zombie: the caller gets the status all the
    // same.
    if (!wait_.record.empty() && !write_record(wait_.record, exit)) {
      const Error error = failure(errno, "record", wait_.record);
      reap(wait_.pidfd.get(), true);
      return finish(error);
    }
    reap(wait_.pidfd.get(), true);
    finish(exit);
  }

  void finish(Result<Exit> result) {
    wait_.pidfd.reset();
    done_(std::move(result));
  }

  void expect_record() {
    wait_.pidfd.reset();
    deadline_ = now_ms() + kRecordWaitMs;
    auto self = shared_from_this();
    if (!read_back()) Poller::control().post([self] { self->retry(); });
  }

  void retry() {
    auto self = shared_from_this();
    if (!read_back()) Poller::control().after(kRecordRetryMs, [self] { self->retry(); });
  }

  // True if that was the end of it.
  bool read_back() {
    Exit exit;
    if (!wait_.record.empty() && read_record(wait_.record, exit)) {
      finish(exit);
      return true;
    }
    if (!wait_.record.empty() && now_ms() < deadline_) return false;
    finish(Exit{kLostStatus, wall_ns()});
    return true;
  }

  Loop& loop_;
  ExitWait wait_;
  std::function<void(Result<Exit>)> done_;
  int64_t deadline_ = 0;
};

}  // namespace

bool reap(int pidfd, bool block) {
  siginfo_t info{};
  const int options = WEXITED | __WALL | (block ? 0 : WNOHANG);
  int got;
  do got = ::waitid(kPidfd, static_cast<id_t>(pidfd), &info, options);
  while (got < 0 && errno == EINTR);
  return got < 0 || info.si_pid != 0;
}

int send_signal(int pidfd, int signal) {
  return ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) < 0 ? errno : 0;
}

int pidfd_open(int pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

void await_exit(Loop& loop, ExitWait wait, std::function<void(Result<Exit>)> done) {
  std::make_shared<Waiter>(loop, std::move(wait), std::move(done))->begin();
}

}  // namespace isopod::core
