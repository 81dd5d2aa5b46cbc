#include "agent/messages.h"

#include "agent/wire.h"

namespace isopod::agent {

namespace {

// No pod has more of anything; a message of 4 MiB could claim a million.
constexpr size_t kMaxItems = 4096;

template <typename T>
T& add(Reader& in, std::vector<T>& list) {
  if (list.size() >= kMaxItems) in.fail();
  return list.emplace_back();
}

// A name below a cgroup, never a path.
bool cgroup_file(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
}

std::vector<uint8_t> octets(std::string_view bytes) { return {bytes.begin(), bytes.end()}; }

bool decode(std::string_view bytes, std::pair<std::string, std::string>& entry) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) entry.first = in.text();
    if (in.field() == 2) entry.second = in.text();
  }
  return in.ok();
}

bool decode(std::string_view bytes, File& file) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) file.name = in.text();
    if (in.field() == 2) file.content = in.bytes();
  }
  return in.ok();
}

bool decode(std::string_view bytes, Interface& interface) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) interface.mac = in.text();
    if (in.field() == 2) interface.name = in.text();
    if (in.field() == 3) interface.mtu = in.word();
    if (in.field() == 4) add(in, interface.addresses) = in.text();
  }
  return in.ok();
}

bool decode(std::string_view bytes, Route& route) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) route.mac = in.text();
    if (in.field() == 2) route.destination = in.text();
    if (in.field() == 3) route.gateway = in.text();
    if (in.field() == 4) route.source = in.text();
    if (in.field() == 5) route.scope = in.word();
    if (in.field() == 6) route.onlink = in.flag();
    if (in.field() == 7) route.metric = in.word();
    if (in.field() == 8) route.mtu = in.word();
  }
  return in.ok();
}

bool decode(std::string_view bytes, Neighbor& neighbor) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) neighbor.mac = in.text();
    if (in.field() == 2) neighbor.address = in.text();
    if (in.field() == 3) neighbor.link_address = in.text();
  }
  return in.ok();
}

bool decode(std::string_view bytes, StdioPorts& stdio) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) stdio.in = in.word();
    if (in.field() == 2) stdio.out = in.word();
    if (in.field() == 3) stdio.err = in.word();
    if (in.field() == 4) stdio.terminal = in.flag();
  }
  return in.ok();
}

bool decode(std::string_view bytes, core::CgroupWrite& write, bool instead) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) write.file = in.text();
    if (in.field() == 2) write.value = in.text();
    if (in.field() == 3) write.key = in.text();
    if (in.field() == 4) write.unset = in.text();
    if (in.field() == 5) write.optional = in.flag();
    if (in.field() == 6) write.retry = in.flag();
    if (in.field() != 7) continue;
    auto other = std::make_shared<core::CgroupWrite>();
    if (instead || !decode(in.bytes(), *other, true)) in.fail();
    write.instead = std::move(other);
  }
  return in.ok() && cgroup_file(write.file);
}

bool decode(std::string_view bytes, core::CgroupWrite& write) {
  return decode(bytes, write, false);
}

// A message inside a message.
template <typename T>
void nested(Reader& in, T& value) {
  if (!decode(in.bytes(), value)) in.fail();
}

}  // namespace

bool decode(std::string_view bytes, Empty&) {
  Reader in(bytes);
  while (in.next()) continue;
  return in.ok();
}

bool decode(std::string_view bytes, HelloRequest& message) {
  Reader in(bytes);
  while (in.next())
    if (in.field() == 1) message.protocol = in.word();
  return in.ok();
}

bool decode(std::string_view bytes, ConfigureRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.hostname = in.text();
    if (in.field() == 2) nested(in, add(in, message.sysctls));
    if (in.field() == 3) nested(in, add(in, message.files));
  }
  return in.ok();
}

bool decode(std::string_view bytes, MountRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.type = in.text();
    if (in.field() == 2) message.source = in.text();
    if (in.field() == 3) message.target = in.text();
    if (in.field() == 4) add(in, message.options) = in.text();
    if (in.field() == 5) message.filesystem = in.text();
    if (in.field() == 6) message.timeout_ms = in.word();
  }
  return in.ok();
}

bool decode(std::string_view bytes, UnmountRequest& message) {
  Reader in(bytes);
  while (in.next())
    if (in.field() == 1) message.target = in.text();
  return in.ok();
}

bool decode(std::string_view bytes, NetworkRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) nested(in, add(in, message.interfaces));
    if (in.field() == 2) nested(in, add(in, message.routes));
    if (in.field() == 3) nested(in, add(in, message.neighbors));
  }
  return in.ok();
}

bool decode(std::string_view bytes, SetClockRequest& message) {
  Reader in(bytes);
  while (in.next())
    if (in.field() == 1) message.unix_nanoseconds = in.signed_number();
  return in.ok();
}

bool decode(std::string_view bytes, ReseedRequest& message) {
  Reader in(bytes);
  while (in.next())
    if (in.field() == 1) message.entropy = in.bytes();
  return in.ok();
}

bool decode(std::string_view bytes, CreateContainerRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.plan = octets(in.bytes());
    if (in.field() == 3) message.cgroup = in.text();
    if (in.field() == 4) nested(in, add(in, message.cgroup_writes));
    if (in.field() == 5) message.device_program = octets(in.bytes());
    if (in.field() == 6) nested(in, message.stdio);
    if (in.field() == 7) add(in, message.join) = in.text();
  }
  return in.ok();
}

bool decode(std::string_view bytes, ExecRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.exec_id = in.text();
    if (in.field() == 3) message.plan = octets(in.bytes());
    if (in.field() == 4) nested(in, message.stdio);
  }
  return in.ok();
}

bool decode(std::string_view bytes, ProcessRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.exec_id = in.text();
  }
  return in.ok();
}

bool decode(std::string_view bytes, SignalRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.exec_id = in.text();
    if (in.field() == 3) message.signal = in.word();
    if (in.field() == 4) message.all = in.flag();
  }
  return in.ok();
}

bool decode(std::string_view bytes, ResizeRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.exec_id = in.text();
    if (in.field() == 3) message.rows = in.word();
    if (in.field() == 4) message.columns = in.word();
  }
  return in.ok();
}

bool decode(std::string_view bytes, UpdateRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) nested(in, add(in, message.writes));
  }
  return in.ok();
}

bool decode(std::string_view bytes, StatsRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() != 2) continue;
    std::string& name = add(in, message.files) = in.text();
    if (!cgroup_file(name)) in.fail();
  }
  return in.ok();
}

bool decode(std::string_view bytes, WaitOomRequest& message) {
  Reader in(bytes);
  while (in.next()) {
    if (in.field() == 1) message.id = in.text();
    if (in.field() == 2) message.seen = in.number();
  }
  return in.ok();
}

std::string encode_hello(const core::Features& features, int oom_score_adj,
                         const std::string& files_dir) {
  Writer out;
  out.bytes(1, ISOPOD_VERSION);
  out.number(2, kProtocol);
  out.bytes(3, features.kernel);
  out.bytes(4, features.arch);
  out.bytes(5, features.cgroup_root);
  for (const std::string& name : features.controllers) out.element(6, name);
  for (const auto& [name, present] : features.flags) {
    Writer entry;
    entry.bytes(1, name);
    entry.number(2, present ? 1 : 0);
    out.element(7, entry.str());
  }
  out.number(8, features.effective_capabilities);
  out.number(9, features.apparmor ? 1 : 0);
  out.number(10, features.selinux ? 1 : 0);
  // An int32 below 0 is sign-extended to ten bytes.
  out.number(11, static_cast<uint64_t>(int64_t{oom_score_adj}));
  out.bytes(12, files_dir);
  return out.take();
}

std::string encode_mount(const std::string& device, uint32_t major, uint32_t minor) {
  Writer out;
  out.bytes(1, device);
  out.number(2, major);
  out.number(3, minor);
  return out.take();
}

std::string encode_process(int pid) {
  Writer out;
  out.number(1, static_cast<uint64_t>(pid));
  return out.take();
}

std::string encode_exit(int status, int64_t exited_at, uint64_t oom_kills) {
  Writer out;
  out.number(1, static_cast<uint64_t>(status));
  out.number(2, static_cast<uint64_t>(exited_at));
  out.number(3, oom_kills);
  return out.take();
}

std::string encode_files(const std::vector<File>& files) {
  Writer out;
  for (const File& file : files) {
    Writer entry;
    entry.bytes(1, file.name);
    entry.bytes(2, file.content);
    out.element(1, entry.str());
  }
  return out.take();
}

std::string encode_pids(const std::vector<PidEntry>& processes) {
  Writer out;
  for (const PidEntry& process : processes) {
    Writer entry;
    entry.number(1, static_cast<uint64_t>(process.pid));
    entry.bytes(2, process.exec_id);
    out.element(1, entry.str());
  }
  return out.take();
}

std::string encode_oom(uint64_t oom_kills) {
  Writer out;
  out.number(1, oom_kills);
  return out.take();
}

}  // namespace isopod::agent
