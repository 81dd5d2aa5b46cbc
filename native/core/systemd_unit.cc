#include "core/systemd_unit.h"

#include <cerrno>
#include <cstring>
#include <memory>

#include "core/poller.h"
#include "core/systemd_bus.h"

namespace isopod::core {

namespace {

constexpr char kStart[] = "start unit";
constexpr char kStop[] = "stop unit";
constexpr char kSet[] = "set unit";
constexpr char kRead[] = "read unit";
constexpr char kMode[] = "replace";  // of the job queue: a pending stop gives way
constexpr char kProperties[] = "org.freedesktop.DBus.Properties";

BusCall on_manager(const char* member, const char* step, const std::string& unit,
                   int64_t deadline) {
  return {kSystemdPath, kSystemdManager, member, nullptr, deadline, step, unit, nullptr};
}

// sd-bus wants `o` read as a string.
Result<std::string> text_in(const SystemdLibrary& sd, sd_bus_message* message, char type,
                            const BusCall& call) {
  const char* text = nullptr;
  const int error = sd.bus_message_read_basic(message, type, static_cast<void*>(&text));
  if (error < 0 || text == nullptr)
    return failure(error < 0 ? -error : EPROTO, call.step, call.subject);
  return std::string(text);
}

// Runs `work` on the bus's thread, or says at once that there is none.
template <typename Done>
void on_bus(const char* step, const std::string& subject, const Done& done,
            std::function<void()> work) {
  if (!SystemdBus::instance().post(std::move(work))) done(failure(EAGAIN, step, subject));
}

// A call whose answer is a job, to the job's end.
void call_for_job(BusCall call, std::function<void(Result<std::string>)> ended) {
  BusCall waiter = call;
  call.done = [waiter, ended = std::move(ended)](Result<sd_bus_message*> reply) {
    if (!reply) return ended(reply.error());
    SystemdBus& bus = SystemdBus::instance();
    Result<std::string> job = text_in(bus.library(), *reply, 'o', waiter);
    if (!job) return ended(job.error());
    bus.await_job(*job, waiter, ended);
  };
  SystemdBus::instance().call(std::move(call));
}

// Best effort: a unit that is loaded no more, which is usual, cannot be reset.
void reset_failed(const std::string& name, int64_t deadline, std::function<void()> then) {
  BusCall call = on_manager("ResetFailedUnit", kStop, name, deadline);
  call.arguments = [name](const SystemdLibrary& sd, sd_bus_message* message) {
    return sd.bus_message_append(message, "s", name.c_str());
  };
  call.done = [then = std::move(then)](Result<sd_bus_message*>) { then(); };
  SystemdBus::instance().call(std::move(call));
}

int append_start(const SystemdLibrary& sd, sd_bus_message* message, const TransientUnit& unit,
                 int pid) {
  std::vector<UnitProperty> properties = unit.properties;
  BusValue process, list;
  process.number = static_cast<uint32_t>(pid);
  list.items.push_back(process);
  properties.push_back({"PIDs", "au", list});
  int error = sd.bus_message_append(message, "ss", unit.name.c_str(), kMode);
  if (error >= 0) error = append_properties(sd, message, properties);
  // No auxiliary units.
  if (error >= 0) error = sd.bus_message_append(message, "a(sa(sv))", 0);
  return error;
}

struct Starting {
  TransientUnit unit;
  int pid;
  int64_t deadline;
  UnitDone done;
  bool again = false;
};

void start(const std::shared_ptr<Starting>& starting) {
  BusCall call = on_manager("StartTransientUnit", kStart, starting->unit.name, starting->deadline);
  call.arguments = [starting](const SystemdLibrary& sd, sd_bus_message* message) {
    return append_start(sd, message, starting->unit, starting->pid);
  };
  call_for_job(std::move(call), [starting](Result<std::string> result) {
    const std::string& name = starting->unit.name;
    if (result && *result == "done") return starting->done(Done{});
    if (result) {
      Error error = failure(0, kStart, name);
      error.why = "systemd's job ended as \"" + *result + '"';
      error.code = "UNKNOWN";
      return reset_failed(name, starting->deadline, [starting, error] { starting->done(error); });
    }
    const Error& error = result.error();
    const bool exists = error.code != nullptr && strcmp(error.code, "ALREADY_EXISTS") == 0;
    if (!exists || starting->again) return starting->done(error);
    starting->again = true;
    reset_failed(name, starting->deadline, [starting] { start(starting); });
  });
}

}  // namespace

void unit_start(TransientUnit unit, int pid, UnitDone done) {
  const int64_t deadline = now_ms() + unit.timeout_ms;
  const std::string name = unit.name;
  auto starting =
      std::make_shared<Starting>(Starting{std::move(unit), pid, deadline, std::move(done)});
  on_bus(kStart, name, starting->done, [starting] { start(starting); });
}

void unit_stop(const std::string& name, int timeout_ms, UnitDone done) {
  const int64_t deadline = now_ms() + timeout_ms;
  on_bus(kStop, name, done, [name, deadline, done] {
    BusCall call = on_manager("StopUnit", kStop, name, deadline);
    call.arguments = [name](const SystemdLibrary& sd, sd_bus_message* message) {
      return sd.bus_message_append(message, "ss", name.c_str(), kMode);
    };
    call_for_job(std::move(call), [name, deadline, done](Result<std::string> result) {
      if (result) return reset_failed(name, deadline, [done] { done(Done{}); });
      const Error& error = result.error();
      const bool absent = error.code != nullptr && strcmp(error.code, "NOT_FOUND") == 0;
      done(absent ? Status(Done{}) : Status(error));
    });
  });
}

void unit_set(TransientUnit changes, UnitDone done) {
  const int64_t deadline = now_ms() + changes.timeout_ms;
  const std::string name = changes.name;
  auto shared = std::make_shared<TransientUnit>(std::move(changes));
  on_bus(kSet, name, done, [shared, deadline, done] {
    BusCall call = on_manager("SetUnitProperties", kSet, shared->name, deadline);
    call.arguments = [shared](const SystemdLibrary& sd, sd_bus_message* message) {
      const int runtime = 1;
      const int error = sd.bus_message_append(message, "sb", shared->name.c_str(), runtime);
      return error < 0 ? error : append_properties(sd, message, shared->properties);
    };
    call.done = [done](Result<sd_bus_message*> reply) {
      done(reply ? Status(Done{}) : Status(reply.error()));
    };
    SystemdBus::instance().call(std::move(call));
  });
}

namespace {

// A unit's object path: what is no letter or digit, and a digit in front, is written as _ and two
// hex digits.
std::string object_of(const std::string& unit) {
  static const char hex[] = "0123456789abcdef";
  std::string path = std::string(kSystemdPath) + "/unit/";
  for (size_t i = 0; i < unit.size(); i++) {
    const auto c = static_cast<unsigned char>(unit[i]);
    const bool digit = c >= '0' && c <= '9';
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (digit && i > 0)) {
      path.push_back(unit[i]);
      continue;
    }
    path += {'_', hex[c >> 4], hex[c & 15]};
  }
  return path;
}

}  // namespace

void unit_read(const std::string& name, const std::string& interface, const std::string& property,
               int timeout_ms, std::function<void(Result<std::string>)> done) {
  const int64_t deadline = now_ms() + timeout_ms;
  const std::string subject = name.empty() ? property : name + ": " + property;
  on_bus(kRead, subject, done, [=] {
    BusCall call{name.empty() ? kSystemdPath : object_of(name),
                 kProperties,
                 "Get",
                 nullptr,
                 deadline,
                 kRead,
                 subject,
                 nullptr};
    call.arguments = [interface, property](const SystemdLibrary& sd, sd_bus_message* message) {
      return sd.bus_message_append(message, "ss", interface.c_str(), property.c_str());
    };
    const BusCall known = call;
    call.done = [known, done](Result<sd_bus_message*> reply) {
      if (!reply) return done(reply.error());
      const SystemdLibrary& sd = SystemdBus::instance().library();
      const int error = sd.bus_message_enter_container(*reply, 'v', "s");
      if (error < 0) return done(failure(-error, known.step, known.subject));
      done(text_in(sd, *reply, 's', known));
    };
    SystemdBus::instance().call(std::move(call));
  });
}

}  // namespace isopod::core
