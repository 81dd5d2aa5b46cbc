// containerd-shim-isopod-v2: the shim's launcher (`start`, `delete`, `-info`, `-v`), which after `start`
// stays as the monitor of the server that it started.
//
// containerd reads stdout and stderr of `start` as one text, to its end: nothing is printed there but the
// answer, and whatever lives on has closed both.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "monitor/info.h"
#include "monitor/invocation.h"
#include "monitor/json.h"
#include "monitor/place.h"
#include "monitor/program.h"
#include "monitor/remove.h"
#include "monitor/supervisor.h"
#include "monitor/wire.h"

namespace isopod::monitor {
namespace {

// containerd.task.v3 and the Sandbox service: reported only where BootstrapParams show that it is understood.
constexpr uint64_t kShimVersion = 3;
constexpr size_t kMaxConfig = 4 << 20;

char g_input[kMaxInput];

int fail(std::string_view verb, const Message4K& error) {
  Message4K line;
  line << "containerd-shim-isopod-v2: " << verb << ": " << error.view() << "\n";
  return write(STDERR_FILENO, line.c_str(), line.size()) < 0 ? 2 : 1;
}

bool print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

bool print_address(const Bootstrap& bootstrap, const SocketText& socket) {
  Text<256> address;
  address << "unix://" << socket.view();
  if (!bootstrap.params) return print(address.view());
  char buffer[512];
  WireWriter result(buffer, sizeof buffer);
  result.number(1, kShimVersion);
  result.bytes(2, address.view());
  result.bytes(3, "ttrpc");
  return print(result.view());
}

// Containers of one pod share a server: containerd names the sandbox in the container's spec.
Text<256> group_of(const Invocation& invocation) {
  static char config[kMaxConfig];
  const std::string_view annotations =
      json_member(read_small("config.json", config, sizeof config), "annotations");
  for (const char* key :
       {"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"}) {
    const std::string_view value = json_string(json_member(annotations, key));
    if (!value.empty()) return Text<256>(value);
  }
  return Text<256>(invocation.id);
}

// Binds the socket and forks the monitor. Under the lock, so that two launchers never make two servers.
bool boot(Supervision* what, Message4K* error) {
  UniqueFd lock = lock_sockets(*what->place);
  if (alive(what->socket)) return true;
  UniqueFd listener = bind_socket(what->socket, error);
  if (!listener) return false;
  const pid_t child = fork();
  if (child == 0) {
    lock.reset();  // the lock hangs on the open file, which fork shares: the monitor must not keep it
    supervise(*what, std::move(listener));
  }
  if (child > 0) return true;
  *error << "forking the monitor: " << strerror(errno);
  unlink(what->socket.c_str());
  return false;
}

int start(const Invocation& invocation) {
  Message4K error;
  Bootstrap bootstrap;
  Place place;
  Program program;
  std::string_view input;
  if (!read_input(g_input, sizeof g_input, &input, &error) ||
      !parse_bootstrap(input, invocation, &bootstrap, &error) ||
      !find_place(invocation, bootstrap.socket_dir, &place, &error) || !find_server(&program, &error)) {
    return fail("start", error);
  }
  const Text<256> group = group_of(invocation);
  Supervision what = {&invocation, &bootstrap, &place, &program,
                      bootstrap.node_group ? socket_of(place, invocation, "node", program.build.view())
                                           : socket_of(place, invocation, group.view(), {})};
  // A sandbox that exists stays with its server, whatever group or build would be chosen today.
  const SocketText recorded = recorded_socket(place, group.view(), ".");
  if (!recorded.empty()) what.socket = recorded;
  if (!what.socket.ok()) {
    error << "-address: too long for a socket name";
    return fail("start", error);
  }
  if (!alive(what.socket)) {
    mkdir(place.state.c_str(), 0711);
    mkdir(place.directory.c_str(), 0700);
    if (!find_node(&program, &error) || !boot(&what, &error)) return fail("start", error);
  }
  if (!write_address(".", what.socket.view(), &error)) return fail("start", error);
  return print_address(bootstrap, what.socket) ? 0 : 1;
}

int remove(const Invocation& invocation) {
  Message4K error;
  Place place;
  if (!find_place(invocation, {}, &place, &error)) return fail("delete", error);
  const Removed removed =
      remove_container(invocation, place, invocation.bundle.empty() ? "." : invocation.bundle);
  char buffer[64];
  WireWriter response(buffer, sizeof buffer);
  response.number(1, removed.pid);
  response.number(2, removed.status);
  response.timestamp(3, removed.exited_at);
  return print(response.view()) ? 0 : 1;
}

int info() {
  Message4K error;
  std::string_view options;
  if (!read_input(g_input, sizeof g_input, &options, &error)) return fail("-info", error);
  static char buffer[kMaxInput + 8192];
  WireWriter out(buffer, sizeof buffer);
  write_info(options, &out);
  return print(out.view()) ? 0 : 1;
}

int run(int argc, char** argv) {
  Invocation invocation;
  Message4K error;
  if (!parse_arguments(argc, argv, &invocation, &error)) {
    error << "\nusage: -namespace NS -address SOCKET -publish-binary PATH -id ID [-bundle DIR] [-debug] "
             "start|delete, or -info, or -v";
    fail("arguments", error);
    return 2;
  }
  if (invocation.version) {
    return print("containerd-shim-isopod-v2 " ISOPOD_VERSION "\n") ? 0 : 1;
  }
  if (invocation.info) return info();
  return invocation.verb == "start" ? start(invocation) : remove(invocation);
}

}  // namespace
}  // namespace isopod::monitor

int main(int argc, char** argv) { return isopod::monitor::run(argc, argv); }
