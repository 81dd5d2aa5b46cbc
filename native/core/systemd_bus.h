// The connection to systemd (org.freedesktop.systemd1(5)): one for the process, on a thread of its
// own, made when something is asked and given up when nothing has been for a while, since systemd
// tells every connection of every change of every unit.
//
// Root talks to systemd itself at /run/systemd/private, so no D-Bus daemon is needed; where that
// socket is absent, the system bus serves. A daemon-reexec ends all private connections: the next
// call makes a new one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "core/systemd_library.h"

namespace isopod::core {

constexpr char kSystemdPath[] = "/org/freedesktop/systemd1";
constexpr char kSystemdManager[] = "org.freedesktop.systemd1.Manager";

struct BusCall {
  std::string path;
  const char* interface;
  const char* member;
  // Appends the arguments; a negative errno refuses them. Empty: there are none.
  std::function<int(const SystemdLibrary&, sd_bus_message*)> arguments;
  int64_t deadline;  // of now_ms()
  // What an error says: step and subject (base/result.h).
  const char* step;
  std::string subject;
  // Called once, on the bus's thread. The message is borrowed.
  std::function<void(Result<sd_bus_message*>)> done;
};

class SystemdBus {
 public:
  // Never destroyed.
  static SystemdBus& instance();

  // From any thread: runs `task` on the bus's. False: there is no thread to be had.
  [[nodiscard]] bool post(std::function<void()> task);

  // The rest is for that thread only.
  void call(BusCall call);
  // Waits for the end of the job that a call has returned: "done", "failed", "canceled", …
  void await_job(const std::string& job, BusCall waiter,
                 std::function<void(Result<std::string>)> done);

  const SystemdLibrary& library() const { return *sd_; }

 private:
  struct Waiting {
    BusCall call;
    sd_bus_slot* slot = nullptr;
    std::function<void(Result<std::string>)> job_done;
  };

  void serve();
  void run_posted();
  Status connect();
  Status open(const char* address, bool daemon);
  void dispatch();
  void give_up(int err);
  int expire();
  void settle(uint64_t id, Result<sd_bus_message*> result);

  static int replied(sd_bus_message* message, void* data, sd_bus_error* error);
  static int job_removed(sd_bus_message* message, void* data, sd_bus_error* error);

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;
  bool serving_ = false;
  UniqueFd wake_;

  const SystemdLibrary* sd_ = nullptr;
  sd_bus* bus_ = nullptr;
  int64_t idle_since_ = 0;
  uint64_t next_ = 1;
  std::map<uint64_t, Waiting> calls_;
  std::map<std::string, Waiting> jobs_;  // by object path
};

// What an error reply says, with the errdefs word for what callers tell apart.
Error error_of(const SystemdLibrary& sd, sd_bus_message* message, const char* step,
               const std::string& subject);

}  // namespace isopod::core
