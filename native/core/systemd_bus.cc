#include "core/systemd_bus.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/jobs.h"
#include "core/poller.h"

namespace isopod::core {

namespace {

constexpr char kDestination[] = "org.freedesktop.systemd1";
constexpr char kPrivate[] = "/run/systemd/private";
constexpr char kDaemon[] = "/run/dbus/system_bus_socket";
constexpr int64_t kIdleMs = 10'000;

struct Word {
  const char* name;
  const char* code;
};
constexpr Word kWords[] = {
    {"org.freedesktop.systemd1.NoSuchUnit", "NOT_FOUND"},
    {"org.freedesktop.systemd1.UnitExists", "ALREADY_EXISTS"},
    {"org.freedesktop.DBus.Error.InvalidArgs", "INVALID_ARGUMENT"},
    {"org.freedesktop.DBus.Error.PropertyReadOnly", "INVALID_ARGUMENT"},
    {"org.freedesktop.DBus.Error.AccessDenied", "PERMISSION_DENIED"},
    {"org.freedesktop.DBus.Error.NoReply", "DEADLINE_EXCEEDED"},
};

// Who listens, by our own count: 0 if outside our pid namespace. A pid that we name would be
// somebody else's there, and that process would be moved into the unit, and killed with it.
bool counts_as_we_do(int socket, bool daemon) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return false;
  return daemon ? peer.pid > 0 : peer.pid == 1;
}

std::string without_stop(std::string text) {
  while (!text.empty() && text.back() == '.') text.pop_back();
  return text;
}

Error lost(const BusCall& call, int err) {
  Error error = failure(err, call.step, call.subject);
  error.why = "the connection to systemd ended: " + std::string(strerror(err));
  error.code = "UNAVAILABLE";
  return error;
}

Error late(const BusCall& call) {
  Error error = failure(ETIMEDOUT, call.step, call.subject);
  error.why = "systemd does not answer";
  return error;
}

}  // namespace

Error error_of(const SystemdLibrary& sd, sd_bus_message* message, const char* step,
               const std::string& subject) {
  Error error = failure(sd.bus_message_get_errno(message), step, subject);
  const sd_bus_error* reply = sd.bus_message_get_error(message);
  if (reply == nullptr) return error;
  if (reply->message != nullptr) error.why = without_stop(reply->message);
  if (reply->name == nullptr) return error;
  for (const Word& word : kWords)
    if (strcmp(reply->name, word.name) == 0) error.code = word.code;
  return error;
}

SystemdBus& SystemdBus::instance() {
  static auto* instance = new SystemdBus;
  return *instance;
}

bool SystemdBus::post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (!wake_) wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return false;
  if (!serving_) serving_ = run_detached([this] { serve(); });
  if (!serving_) return false;
  posted_.push_back(std::move(task));
  const uint64_t one = 1;
  // Full means that it is awake already.
  static_cast<void>(::write(wake_.get(), &one, sizeof(one)) < 0);
  return true;
}

void SystemdBus::serve() {
  for (;;) {
    run_posted();
    dispatch();
    const int timeout = expire();
    pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {-1, 0, 0}};
    if (bus_ != nullptr)
      fds[1] = {sd_->bus_get_fd(bus_), static_cast<short>(sd_->bus_get_events(bus_)), 0};
    ::poll(fds, 2, timeout);
    uint64_t count = 0;
    static_cast<void>(::read(wake_.get(), &count, sizeof(count)) < 0);
  }
}

void SystemdBus::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (const auto& task : tasks) task();
}

Status SystemdBus::connect() {
  if (bus_ != nullptr) return Done{};
  if (sd_ == nullptr) {
    Result<const SystemdLibrary*> library = systemd_library();
    if (!library) return library.error();
    sd_ = *library;
  }
  Status direct = open(kPrivate, false);
  if (direct) return direct;
  return open(kDaemon, true) ? Status(Done{}) : direct;
}

Status SystemdBus::open(const char* socket, bool daemon) {
  sd_bus* bus = nullptr;
  const std::string address = std::string("unix:path=") + socket;
  int error = sd_->bus_new(&bus);
  if (error >= 0) error = sd_->bus_set_address(bus, address.c_str());
  // Only a D-Bus daemon wants a Hello.
  if (error >= 0) error = sd_->bus_set_bus_client(bus, daemon ? 1 : 0);
  if (error >= 0) error = sd_->bus_start(bus);
  // Behind a daemon anybody could send us this signal: there it counts from systemd only.
  if (error >= 0)
    error = sd_->bus_match_signal(bus, nullptr, daemon ? kDestination : nullptr, kSystemdPath,
                                  kSystemdManager, "JobRemoved", job_removed, this);
  const bool foreign = error >= 0 && !counts_as_we_do(sd_->bus_get_fd(bus), daemon);
  if (error < 0 || foreign) {
    if (bus != nullptr) sd_->bus_close_unref(bus);
    Error failed = failure(foreign ? 0 : -error, "systemd", socket);
    if (foreign) failed.why = "it is not PID 1 here: it would take our pids for others";
    failed.code = "FAILED_PRECONDITION";
    return failed;
  }
  bus_ = bus;
  idle_since_ = now_ms();
  // Without this a daemon passes no signals on; a private connection gets them unasked.
  if (daemon)
    call({kSystemdPath, kSystemdManager, "Subscribe", nullptr, now_ms() + kIdleMs, "systemd",
          socket, [](Result<sd_bus_message*>) {}});
  return Done{};
}

void SystemdBus::call(BusCall call) {
  if (Status connected = connect(); !connected) return call.done(connected.error());
  sd_bus_message* message = nullptr;
  int error = sd_->bus_message_new_method_call(bus_, &message, kDestination, call.path.c_str(),
                                               call.interface, call.member);
  if (error >= 0 && call.arguments) error = call.arguments(*sd_, message);
  const uint64_t id = next_++;
  sd_bus_slot* slot = nullptr;
  // The deadline is ours to watch: sd-bus begins to count when it is connected only.
  if (error >= 0)
    error =
        sd_->bus_call_async(bus_, &slot, message, replied, reinterpret_cast<void*>(id), UINT64_MAX);
  sd_->bus_message_unref(message);
  if (error < 0) return call.done(failure(-error, call.step, call.subject));
  calls_.emplace(id, Waiting{std::move(call), slot, nullptr});
}

void SystemdBus::await_job(const std::string& job, BusCall waiter,
                           std::function<void(Result<std::string>)> done) {
  jobs_.insert_or_assign(job, Waiting{std::move(waiter), nullptr, std::move(done)});
}

void SystemdBus::settle(uint64_t id, Result<sd_bus_message*> result) {
  const auto found = calls_.find(id);
  if (found == calls_.end()) return;
  const Waiting waiting = std::move(found->second);
  calls_.erase(found);
  sd_->bus_slot_unref(waiting.slot);
  idle_since_ = now_ms();
  waiting.call.done(std::move(result));
}

int SystemdBus::replied(sd_bus_message* message, void* data, sd_bus_error*) {
  SystemdBus& self = instance();
  const auto id = reinterpret_cast<uint64_t>(data);
  const auto found = self.calls_.find(id);
  if (found == self.calls_.end()) return 0;
  const BusCall& call = found->second.call;
  if (self.sd_->bus_message_get_error(message) != nullptr)
    self.settle(id, error_of(*self.sd_, message, call.step, call.subject));
  else
    self.settle(id, message);
  return 0;
}

// JobRemoved(u id, o job, s unit, s result)
int SystemdBus::job_removed(sd_bus_message* message, void* data, sd_bus_error*) {
  auto* self = static_cast<SystemdBus*>(data);
  uint32_t id = 0;
  const char *job = nullptr, *unit = nullptr, *result = nullptr;
  if (self->sd_->bus_message_read(message, "uoss", &id, &job, &unit, &result) < 0) return 0;
  const auto found = self->jobs_.find(job);
  if (found == self->jobs_.end()) return 0;
  const Waiting waiting = std::move(found->second);
  self->jobs_.erase(found);
  self->idle_since_ = now_ms();
  waiting.job_done(std::string(result));
  return 0;
}

void SystemdBus::dispatch() {
  if (bus_ == nullptr) return;
  int more = 0;
  do more = sd_->bus_process(bus_, nullptr);
  while (more > 0);
  if (more < 0)
    give_up(-more);
  else if (sd_->bus_is_open(bus_) <= 0)
    give_up(ECONNRESET);
}

// Nothing that waits for an answer gets one any more.
void SystemdBus::give_up(int err) {
  const std::map<uint64_t, Waiting> calls = std::exchange(calls_, {});
  const std::map<std::string, Waiting> jobs = std::exchange(jobs_, {});
  for (const auto& [id, waiting] : calls) sd_->bus_slot_unref(waiting.slot);
  sd_->bus_close_unref(std::exchange(bus_, nullptr));
  for (const auto& [id, waiting] : calls) waiting.call.done(lost(waiting.call, err));
  for (const auto& [job, waiting] : jobs) waiting.job_done(lost(waiting.call, err));
}

// Ends what is overdue; returns how many milliseconds there are until something else will be, -1
// for never.
int SystemdBus::expire() {
  if (bus_ == nullptr) return -1;
  const int64_t now = now_ms();
  std::vector<uint64_t> calls;
  std::vector<Waiting> jobs;
  for (const auto& [id, waiting] : calls_)
    if (waiting.call.deadline <= now) calls.push_back(id);
  for (auto at = jobs_.begin(); at != jobs_.end();) {
    if (at->second.call.deadline > now) {
      ++at;
      continue;
    }
    jobs.push_back(std::move(at->second));
    at = jobs_.erase(at);
  }
  for (const uint64_t id : calls) {
    // One that was answered may have ended others.
    const auto found = calls_.find(id);
    if (found != calls_.end()) settle(id, late(found->second.call));
  }
  for (const Waiting& waiting : jobs) waiting.job_done(late(waiting.call));
  if (bus_ == nullptr) return -1;

  const bool idle = calls_.empty() && jobs_.empty();
  if (idle && now - idle_since_ >= kIdleMs) {
    give_up(0);
    return -1;
  }
  int64_t next = idle ? idle_since_ + kIdleMs : INT64_MAX;
  for (const auto& [id, waiting] : calls_) next = std::min(next, waiting.call.deadline);
  for (const auto& [job, waiting] : jobs_) next = std::min(next, waiting.call.deadline);
  uint64_t theirs = UINT64_MAX;  // microseconds of the same clock
  if (sd_->bus_get_timeout(bus_, &theirs) >= 0 && theirs != UINT64_MAX)
    next = std::min(next, static_cast<int64_t>(theirs / 1000) + 1);
  return static_cast<int>(std::clamp<int64_t>(next - now, 0, 60'000));
}

}  // namespace isopod::core
