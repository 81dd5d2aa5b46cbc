// isopod-fs: serves one directory tree to one guest.
//
//   isopod-fs --root FD --socket FD [--threads N] [--exclusive NAME]
//
// root:       a directory in this mount namespace (O_PATH will do). What is mounted below it is
// served too,
//             what is mounted there later as well if root's mount is shared.
// socket:     SOCK_SEQPACKET, see vmm/virtio/fs_protocol.h
// exclusive:  what lies below this directory of the root is changed by the guest alone (root file
// systems):
//             it is cached for long, and devices may be made there
//
// Started as root by the VM's monitor; it jails itself (jail.h). Ends with 0 when the socket is
// closed.
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "fs/jail.h"
#include "fs/serve.h"
#include "fs/session.h"
#include "vmm/virtio/fs_protocol.h"

namespace {

using isopod::Status;
using isopod::UniqueFd;
namespace fs = isopod::fs;

constexpr unsigned kMaxThreads = 4;
// For sockets, threads, and files on their way to the monitor.
constexpr size_t kReserved = 256;
constexpr size_t kMaxHandles = 4096;

struct Invocation {
  int root = -1;
  int socket = -1;
  unsigned threads = 2;
  std::string exclusive;
};

bool number(const char* text, int& out) {
  char* end = nullptr;
  const long value = strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || value < 0 || value > 1 << 20) return false;
  out = static_cast<int>(value);
  return true;
}

bool parse(int count, char** words, Invocation& out) {
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string name = words[i];
    const char* value = words[i + 1];
    int threads = 0;
    if (name == "--root" && number(value, out.root)) continue;
    if (name == "--socket" && number(value, out.socket)) continue;
    if (name == "--threads" && number(value, threads) && threads >= 1 &&
        threads <= static_cast<int>(kMaxThreads)) {
      out.threads = static_cast<unsigned>(threads);
      continue;
    }
    if (name == "--exclusive" && fs::valid_name(value)) {
      out.exclusive = value;
      continue;
    }
    return false;
  }
  return count % 2 == 1 && out.root >= 0 && out.socket >= 0;
}

int fail(const isopod::Error& error) {
  fprintf(stderr, "isopod-fs: %s \"%s\": %s\n", error.step, error.subject.c_str(),
          error.err != 0 ? strerror(error.err) : error.why.c_str());
  return 1;
}

// Descriptors are what the guest can make us hold: as many as we may.
size_t descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1 << 20);
  setrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<size_t>(limit.rlim_cur);
}

}  // namespace

int main(int count, char** words) {
  Invocation invocation;
  if (!parse(count, words, invocation)) {
    fprintf(stderr, "usage: isopod-fs --root FD --socket FD [--threads 1..%u] [--exclusive NAME]\n",
            kMaxThreads);
    return 2;
  }
  if (Status status = fs::own_pid_namespace(); !status) return fail(status.error());
  umask(0);
  const size_t descriptors = descriptor_limit();
  isopod::Result<fs::Places> places = fs::enter_tree(UniqueFd(invocation.root));
  if (!places) return fail(places.error());
  if (Status status = fs::drop_capabilities(); !status) return fail(status.error());
  const int buffer = isopod::vmm::virtio::kFsSocketBuffer;
  setsockopt(invocation.socket, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);

  const size_t handles = std::min(kMaxHandles, descriptors / 4);
  fs::Options options;
  options.proc_fd = places->proc_fd.get();
  options.max_handles = handles;
  options.max_inodes = descriptors - std::min(descriptors, handles + kReserved);
  options.exclusive = invocation.exclusive;
  fs::Session session(std::move(places->root), std::move(options));
  fs::serve(invocation.socket, places->proc_fd.get(), session, invocation.threads,
            fs::filter_calls);
}
