// isopod-agent: the first process of a microVM's guest.
//
//   isopod-agent                          as pid 1: vsock to the host, init's duties (init.h)
//   isopod-agent --unix DIR [--files DIR] [--init]
//                                         for tests: on the host itself, streams are the unix
//                                         sockets DIR/<port>; --init: with init's duties
//
// Threads: this one reaps what falls to us, the control poller does all the rest, launchers and
// jobs do what waits. Children belong to the threads that made them and are reaped by pidfd;
// orphans fall to the first thread. That is how the two are told apart (wait(2), __WNOTHREAD).
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <string>

#include "agent/agent.h"
#include "agent/init.h"
#include "core/base_namespace.h"
#include "core/error_text.h"
#include "core/jobs.h"
#include "core/memfd.h"
#include "init_image.h"

namespace isopod::agent {

namespace {

struct Arguments {
  std::string unix_directory;
  std::string files = "/run/isopod/files";
  bool init = false;
};

void say(const std::string& text) { fprintf(stderr, "isopod-agent: %s\n", text.c_str()); }

// Only a thread of its own can make the base: it stays there.
Result<UniqueFd> make_base() {
  std::mutex mutex;
  std::condition_variable ready;
  std::unique_ptr<Result<UniqueFd>> base;
  const bool begun = core::run_detached([&] {
    auto made = std::make_unique<Result<UniqueFd>>(core::base_namespace());
    std::lock_guard lock(mutex);
    base = std::move(made);
    ready.notify_one();
  });
  if (!begun) return failure(EAGAIN, "start thread", "");
  std::unique_lock lock(mutex);
  ready.wait(lock, [&] { return base != nullptr; });
  return std::move(**base);
}

bool parse(int count, char** words, Arguments& arguments) {
  for (int i = 1; i < count; i++) {
    const std::string word = words[i];
    if (word == "--init")
      arguments.init = true;
    else if (word == "--unix" && i + 1 < count)
      arguments.unix_directory = words[++i];
    else if (word == "--files" && i + 1 < count)
      arguments.files = words[++i];
    // What the kernel does not know of its command line it gives to init.
    else if (getpid() != 1)
      return false;
  }
  if (arguments.unix_directory.empty()) arguments.init = true;
  return !arguments.init || getpid() == 1;
}

// Blocked in every thread that is started from now on, and pending until somebody asks.
sigset_t block_signals() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&wanted, number);
  pthread_sigmask(SIG_BLOCK, &wanted, nullptr);
  // A stream whose other end is gone says EPIPE.
  ::signal(SIGPIPE, SIG_IGN);
  return wanted;
}

[[noreturn]] void end(bool init) {
  if (init) power_off();
  ::_exit(0);
}

// Orphans are children of this thread, since it is the process's first.
void reap_orphans() {
  while (::waitpid(-1, nullptr, WNOHANG | __WALL | __WNOTHREAD) > 0) continue;
}

Status run(const Arguments& arguments, const sigset_t& signals) {
  if (arguments.init)
    if (Status ready = prepare_guest(arguments.unix_directory.empty()); !ready) return ready;
  Result<Transport> transport = arguments.unix_directory.empty()
                                    ? Result<Transport>(Transport::vsock())
                                    : Transport::unix_directory(arguments.unix_directory);
  if (!transport) return transport.error();
  if (arguments.init)
    if (Status moved = enter_root(); !moved) return moved;
  core::set_init_image(kInitImage, sizeof(kInitImage));
  Result<UniqueFd> base = make_base();
  if (!base) return base.error();
  Result<UniqueFd> control = transport->connect(kControlPort);
  if (!control) return control.error();
  const bool init = arguments.init;
  Agent agent(*transport, std::move(*base), arguments.files, [init] { end(init); });
  agent.serve(std::move(*control));
  for (;;) {
    reap_orphans();
    siginfo_t info{};
    if (sigwaitinfo(&signals, &info) == SIGTERM || info.si_signo == SIGINT) end(init);
  }
}

}  // namespace

}  // namespace isopod::agent

int main(int count, char** words) {
  using namespace isopod;
  agent::Arguments arguments;
  if (!agent::parse(count, words, arguments)) {
    fputs("usage: isopod-agent [--unix DIR [--files DIR] [--init]]\n", stderr);
    return 2;
  }
  const sigset_t signals = agent::block_signals();
  if (getpid() != 1) prctl(PR_SET_CHILD_SUBREAPER, 1);
  Status done = agent::run(arguments, signals);
  agent::say(core::text_of(done.error()));
  if (arguments.init) agent::power_off();
  return 1;
}
