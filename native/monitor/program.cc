#include "monitor/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

// Recorded by binding.gyp when the monitor is built.
#ifndef ISOPOD_NODE_PATH
#define ISOPOD_NODE_PATH "/usr/bin/node"
#define ISOPOD_NODE_MAJOR 0
#define ISOPOD_NODE_SIZE 0
#endif

extern char** environ;

namespace isopod::monitor {

namespace {

constexpr int kOldestMajor = 20;
constexpr int kVersionTimeoutMs = 5000;

void stamp(const char* path, Text<256>* build) {
  struct stat info;
  if (stat(path, &info) != 0) return;
  *build << static_cast<int64_t>(info.st_size) << "." << static_cast<int64_t>(info.st_mtim.tv_sec) << "."
         << static_cast<int64_t>(info.st_mtim.tv_nsec) << " ";
}

// The major that `node --version` prints; 0 if it prints none in time.
int ask_version(const char* node) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return 0;
  UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    dup2(input.get(), STDOUT_FILENO);
    char name[] = "node";
    char flag[] = "--version";
    char* const arguments[] = {name, flag, nullptr};
    execve(node, arguments, scrubbed_environment());
    _exit(127);
  }
  input.reset();
  char text[32] = {};
  size_t size = 0;
  pollfd ready = {output.get(), POLLIN, 0};
  while (child > 0 && size < sizeof text - 1 && poll(&ready, 1, kVersionTimeoutMs) == 1) {
    const ssize_t got = read(output.get(), text + size, sizeof text - 1 - size);
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  if (child > 0) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  return text[0] == 'v' ? atoi(text + 1) : 0;
}

bool usable(const char* node, Message4K* reasons) {
  static Text<256> tried;  // PATH often names what was looked at before
  struct stat info;
  if (stat(node, &info) != 0 || !S_ISREG(info.st_mode) || access(node, X_OK) != 0) return false;
  const bool recorded = strcmp(node, ISOPOD_NODE_PATH) == 0 && info.st_size == ISOPOD_NODE_SIZE;
  const int major = recorded ? ISOPOD_NODE_MAJOR : ask_version(node);
  if (major >= kOldestMajor) return true;
  const size_t before = tried.size();
  tried << node << " ";
  if (before > 0 && strstr(tried.c_str(), tried.c_str() + before) != tried.c_str() + before) return false;
  *reasons << "; \"" << node << "\": ";
  if (major == 0) {
    *reasons << "does not run";
  } else {
    *reasons << "major " << static_cast<int64_t>(major);
  }
  return false;
}

}  // namespace

bool find_server(Program* out, Message4K* error) {
  char self[4096];
  const ssize_t size = readlink("/proc/self/exe", self, sizeof self - 1);
  if (size <= 0) {
    *error << "reading /proc/self/exe: " << strerror(errno);
    return false;
  }
  self[size] = '\0';
  const std::string_view directory = directory_of({self, static_cast<size_t>(size)});
  for (const char* relative : {"/shim-server.js", "/../../dist/shim-server.js"}) {
    out->server.clear();
    out->server << directory << relative;
    if (access(out->server.c_str(), R_OK) != 0) continue;
    PathText addon;
    addon << directory << "/isopod.node";
    stamp(self, &out->build);
    stamp(out->server.c_str(), &out->build);
    stamp(addon.c_str(), &out->build);
    return true;
  }
  *error << "finding the bundle: shim-server.js is neither in \"" << directory << "\" nor in \"" << directory
         << "/../../dist\"";
  return false;
}

bool find_node(Program* out, Message4K* error) {
  Message4K reasons;
  out->node << ISOPOD_NODE_PATH;
  if (usable(out->node.c_str(), &reasons)) return true;
  const char* path = getenv("PATH");
  for (std::string_view rest = path == nullptr ? "" : path; !rest.empty();) {
    const auto* colon = static_cast<const char*>(memchr(rest.data(), ':', rest.size()));
    const size_t length = colon == nullptr ? rest.size() : static_cast<size_t>(colon - rest.data());
    out->node.clear();
    out->node << std::string_view(rest.data(), length) << "/node";
    // A relative entry would be resolved in the bundle, whose content is not ours.
    if (rest.front() == '/' && usable(out->node.c_str(), &reasons)) return true;
    rest.remove_prefix(colon == nullptr ? length : length + 1);
  }
  out->node.clear();
  out->node << "/usr/bin/node";
  if (usable(out->node.c_str(), &reasons)) return true;
  *error << "finding node: need major " << static_cast<int64_t>(kOldestMajor) << " or later at \""
         << ISOPOD_NODE_PATH << "\", in PATH or at /usr/bin/node" << reasons.view();
  return false;
}

char** scrubbed_environment() {
  char** to = environ;
  for (char** from = environ; *from != nullptr; ++from) {
    if (!starts_with(*from, "NODE_")) *to++ = *from;
  }
  *to = nullptr;
  // Of the server's threads only a few ever allocate, and briefly: an arena of its own for each costs 6 MiB.
  setenv("MALLOC_ARENA_MAX", "1", 1);
  setenv("MALLOC_TRIM_THRESHOLD_", "131072", 1);  // set, it no longer grows: what is free is given back
  return environ;
}

}  // namespace isopod::monitor
