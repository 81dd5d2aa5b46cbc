#include "monitor/remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "monitor/call.h"
#include "monitor/json.h"
#include "monitor/wire.h"

namespace isopod::monitor {

namespace {

// containerd kills `delete` after 5 s: three calls, or one in vain and then the records, have to fit.
constexpr int kServerTimeoutMs = 1500;
constexpr int kEmptyTimeoutMs = 3000;
constexpr int kScopeTimeoutMs = 1000;
constexpr int kRecordTimeoutMs = 200;
constexpr int kStepMs = 2;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxRecord = 256 << 10;
constexpr std::string_view kTask = "containerd.task.v3.Task";
constexpr std::string_view kSandbox = "containerd.runtime.sandbox.v1.Sandbox";

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

void pause_ms(int ms) {
  const timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, nullptr);
}

// DeleteResponse {1 pid, 2 exit_status, 3 exited_at}.
void read_response(std::string_view response, Removed* out) {
  out->status = 0;
  WireReader reader(response);
  for (Field field; reader.next(&field);) {
    if (field.number == 1) out->pid = static_cast<uint32_t>(field.value);
    if (field.number == 2) out->status = static_cast<uint32_t>(field.value);
    if (field.number == 3) out->exited_at = read_timestamp(field.bytes);
  }
  // Year 1 stands for "never ran".
  if (out->exited_at <= 0) *out = Removed{out->pid, 128 + SIGKILL, 0};
}

// True if the server answered, and so has done what there was to do.
bool remove_by_server(const SocketText& socket, std::string_view id, Removed* out) {
  Caller caller(socket, kServerTimeoutMs);
  char buffer[256];
  WireWriter kill(buffer, sizeof buffer);
  kill.bytes(1, id);
  const std::string_view named = kill.view();
  kill.number(3, SIGKILL);
  kill.number(4, 1);
  std::string_view response;
  const uint32_t killed = caller.call(kTask, "Kill", kill.view(), &response);
  if (killed == kUnavailable) return false;
  // The id is field 1 of every request; Wait returns once the end is recorded.
  caller.call(kTask, "Wait", named, &response);
  const uint32_t deleted = caller.call(kTask, "Delete", named, &response);
  if (deleted == kUnavailable) return false;
  if (deleted == 0) {
    read_response(response, out);
    return true;
  }
  return caller.call(kSandbox, "ShutdownSandbox", named, &response) != kUnavailable;
}

// Only a cgroup2 below the root has `cgroup.events`: a broken record can never name the whole machine.
bool killable(const PathText& cgroup) {
  struct statfs info;
  PathText events;
  events << cgroup.view() << "/cgroup.events";
  return cgroup.ok() && !cgroup.empty() && statfs(cgroup.c_str(), &info) == 0 &&
         static_cast<long>(info.f_type) == CGROUP2_SUPER_MAGIC && access(events.c_str(), F_OK) == 0;
}

void write_one(const PathText& path) {
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (file && write(file.get(), "1", 1) < 0) return;  // the wait that follows tells
}

// cgroup.kill exists since 5.14; before, each process is killed by its pid.
void kill_cgroup(const PathText& cgroup) {
  PathText path;
  path << cgroup.view() << "/cgroup.kill";
  if (access(path.c_str(), F_OK) == 0) {
    write_one(path);
    return;
  }
  path.clear();
  path << cgroup.view() << "/cgroup.procs";
  char pids[16 << 10];
  std::string_view rest = read_small(path.c_str(), pids, sizeof pids - 1);
  pids[rest.size()] = '\0';
  for (char* at = pids; *at != '\0';) {
    char* end = at;
    const long pid = strtol(at, &end, 10);
    if (end == at) break;
    if (pid > 1) kill(static_cast<pid_t>(pid), SIGKILL);
    at = *end == '\n' ? end + 1 : end;
  }
}

bool populated(const PathText& cgroup) {
  PathText path;
  path << cgroup.view() << "/cgroup.events";
  char text[256] = {};
  read_small(path.c_str(), text, sizeof text - 1);
  return strstr(text, "populated 1") != nullptr;
}

void remove_cgroup_tree(const PathText& cgroup, int depth) {
  DIR* directory = depth < kMaxDepth ? opendir(cgroup.c_str()) : nullptr;
  while (const dirent* entry = directory == nullptr ? nullptr : readdir(directory)) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    PathText child;
    child << cgroup.view() << "/" << entry->d_name;
    remove_cgroup_tree(child, depth + 1);
  }
  if (directory != nullptr) closedir(directory);
  rmdir(cgroup.c_str());
}

// systemd removes the cgroup of a scope when it sees that it is empty, by a file in there: to a unit whose
// directory has gone before it looked, its end never comes.
void leave_to_systemd(const PathText& cgroup) {
  if (!ends_with(cgroup.view(), ".scope")) return;
  for (int waited = 0; waited < kScopeTimeoutMs; waited += kStepMs) {
    if (access(cgroup.c_str(), F_OK) != 0) return;
    pause_ms(kStepMs);
  }
}

void destroy_cgroup(const PathText& cgroup) {
  if (!killable(cgroup)) return;
  kill_cgroup(cgroup);
  for (int waited = 0; populated(cgroup) && waited < kEmptyTimeoutMs; waited += kStepMs) {
    kill_cgroup(cgroup);
    pause_ms(kStepMs);
  }
  leave_to_systemd(cgroup);
  remove_cgroup_tree(cgroup, 0);
}

// The true exit, if somebody recorded it: the server before, or the monitor when it reaped.
void read_exit(const SocketText& socket, std::string_view id, Removed* out) {
  const PathText path = records_of(socket.view(), id, ".exit");
  for (int waited = 0; waited < kRecordTimeoutMs; waited += kStepMs) {
    char content[256];
    const std::string_view record = read_small(path.c_str(), content, sizeof content);
    const int64_t status = json_number(json_member(record, "status"), -1);
    if (status >= 0) {
      out->status = static_cast<uint32_t>(status);
      out->exited_at = json_number(json_member(record, "exitedAt"), now());
      return;
    }
    pause_ms(kStepMs);
  }
}

void remove_files(const SocketText& socket, std::string_view id) {
  for (const char* ending : {".gate", ".exit", ".json"}) unlink(records_of(socket.view(), id, ending).c_str());
  Text<128> execs;
  execs << id << "@";  // `@` is in no id
  const PathText records = records_of(socket.view());
  DIR* directory = opendir(records.c_str());
  while (const dirent* entry = directory == nullptr ? nullptr : readdir(directory)) {
    if (starts_with(entry->d_name, execs.view())) unlinkat(dirfd(directory), entry->d_name, 0);
  }
  if (directory != nullptr) closedir(directory);
}

void remove_record(const SocketText& socket, std::string_view id, char* buffer, Removed* out) {
  const PathText path = records_of(socket.view(), id, ".json");
  const std::string_view record = read_small(path.c_str(), buffer, kMaxRecord);
  if (record.empty()) return;
  const PathText cgroup(json_string(json_member(record, "cgroup")));
  out->pid = static_cast<uint32_t>(json_number(json_member(record, "pid"), 0));
  destroy_cgroup(cgroup);
  read_exit(socket, id, out);
  remove_files(socket, id);
}

// The containers of a sandbox cannot outlive it: they go first.
void remove_members(const SocketText& socket, std::string_view id, char* buffer) {
  const PathText records = records_of(socket.view());
  DIR* directory = opendir(records.c_str());
  while (const dirent* entry = directory == nullptr ? nullptr : readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (!ends_with(name, ".json")) continue;
    const Text<256> member(std::string_view(name.data(), name.size() - 5));
    const PathText path = records_of(socket.view(), name);
    const std::string_view record = read_small(path.c_str(), buffer, kMaxRecord);
    if (json_string(json_member(record, "sandbox")) != id) continue;
    Removed ignored;
    remove_record(socket, member.view(), buffer, &ignored);
  }
  if (directory != nullptr) closedir(directory);
}

}  // namespace

Removed remove_container(const Invocation& invocation, const Place& place, std::string_view bundle) {
  Removed removed;
  const SocketText socket = recorded_socket(place, invocation.id, bundle);
  if (!socket.empty() && !(alive(socket) && remove_by_server(socket, invocation.id, &removed))) {
    static char buffer[kMaxRecord];
    remove_members(socket, invocation.id, buffer);
    remove_record(socket, invocation.id, buffer, &removed);
    const UniqueFd lock = lock_sockets(place);
    if (!alive(socket)) rmdir(records_of(socket.view()).c_str());
  }
  PathText rootfs;
  rootfs << bundle << "/rootfs";
  while (rootfs.ok() && umount2(rootfs.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
  if (removed.exited_at == 0) removed.exited_at = now();
  return removed;
}

}  // namespace isopod::monitor
