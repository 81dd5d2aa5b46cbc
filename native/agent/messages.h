// The messages of proto/agent/agent.proto. What comes is decoded here, once, bounds included;
// handlers see values only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/cgroup_write.h"
#include "core/host.h"

namespace isopod::agent {

constexpr uint32_t kProtocol = 1;

struct Empty {};

struct HelloRequest {
  uint32_t protocol = 0;
};

struct File {
  std::string name;
  std::string content;
};

struct ConfigureRequest {
  std::string hostname;
  std::vector<std::pair<std::string, std::string>> sysctls;
  std::vector<File> files;
};

struct MountRequest {
  std::string type;
  std::string source;
  std::string target;
  std::vector<std::string> options;
  std::string filesystem;
  uint32_t timeout_ms = 0;
};

struct UnmountRequest {
  std::string target;
};

struct Interface {
  std::string mac;
  std::string name;
  uint32_t mtu = 0;
  std::vector<std::string> addresses;
};

struct Route {
  std::string mac;
  std::string destination;
  std::string gateway;
  std::string source;
  uint32_t scope = 0;
  bool onlink = false;
  uint32_t metric = 0;
  uint32_t mtu = 0;
};

struct Neighbor {
  std::string mac;
  std::string address;
  std::string link_address;
};

struct NetworkRequest {
  std::vector<Interface> interfaces;
  std::vector<Route> routes;
  std::vector<Neighbor> neighbors;
};

struct SetClockRequest {
  int64_t unix_nanoseconds = 0;
};

struct ReseedRequest {
  std::string entropy;
};

struct StdioPorts {
  uint32_t in = 0;
  uint32_t out = 0;
  uint32_t err = 0;
  bool terminal = false;
};

struct CreateContainerRequest {
  std::string id;
  std::vector<uint8_t> plan;
  std::string cgroup;
  core::CgroupWrites cgroup_writes;
  std::vector<uint8_t> device_program;
  StdioPorts stdio;
  std::vector<std::string> join;  // ids
};

struct ExecRequest {
  std::string id;
  std::string exec_id;
  std::vector<uint8_t> plan;
  StdioPorts stdio;
};

// Also ContainerRequest, whose exec_id is never there.
struct ProcessRequest {
  std::string id;
  std::string exec_id;
};

struct SignalRequest {
  std::string id;
  std::string exec_id;
  uint32_t signal = 0;
  bool all = false;
};

struct ResizeRequest {
  std::string id;
  std::string exec_id;
  uint32_t rows = 0;
  uint32_t columns = 0;
};

struct UpdateRequest {
  std::string id;
  core::CgroupWrites writes;
};

struct StatsRequest {
  std::string id;
  std::vector<std::string> files;
};

struct WaitOomRequest {
  std::string id;
  uint64_t seen = 0;
};

// False: malformed, or a list longer than any that makes sense. Fields of later versions are
// skipped.
bool decode(std::string_view bytes, Empty& message);
bool decode(std::string_view bytes, HelloRequest& message);
bool decode(std::string_view bytes, ConfigureRequest& message);
bool decode(std::string_view bytes, MountRequest& message);
bool decode(std::string_view bytes, UnmountRequest& message);
bool decode(std::string_view bytes, NetworkRequest& message);
bool decode(std::string_view bytes, SetClockRequest& message);
bool decode(std::string_view bytes, ReseedRequest& message);
bool decode(std::string_view bytes, CreateContainerRequest& message);
bool decode(std::string_view bytes, ExecRequest& message);
bool decode(std::string_view bytes, ProcessRequest& message);
bool decode(std::string_view bytes, SignalRequest& message);
bool decode(std::string_view bytes, ResizeRequest& message);
bool decode(std::string_view bytes, UpdateRequest& message);
bool decode(std::string_view bytes, StatsRequest& message);
bool decode(std::string_view bytes, WaitOomRequest& message);

struct PidEntry {
  int pid;
  std::string exec_id;
};

std::string encode_hello(const core::Features& features, int oom_score_adj,
                         const std::string& files_dir);
std::string encode_mount(const std::string& device, uint32_t major, uint32_t minor);
std::string encode_process(int pid);
std::string encode_exit(int status, int64_t exited_at, uint64_t oom_kills);
std::string encode_files(const std::vector<File>& files);
std::string encode_pids(const std::vector<PidEntry>& processes);
std::string encode_oom(uint64_t oom_kills);

}  // namespace isopod::agent
