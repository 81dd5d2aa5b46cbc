// The fd store: what monitor and server say to each other (rule R2).
//
// One SOCK_SEQPACKET socketpair per server process, made by the monitor before it forks; the server finds
// its end as fd kStoreFd. Every packet is one Message, whole, with at most one descriptor as SCM_RIGHTS.
// There are no replies: a store that fails costs a restart its descriptors, never a running container.
//
//   server → monitor   PUT   name + fd      keep this descriptor (the sender keeps its own); replaces
//                      DROP  name           forget it; "<id>/" forgets all names, the task and the exit below
//                      TASK  name = id, pid, record
//                                           should this process fall to the monitor, a subreaper, write its
//                                           exit to `record` before reaping it
//   monitor → server   FD    name + fd      one for every descriptor that an earlier server left
//                      EXIT  name = id, status, exited_at
//                                           one for every task that the monitor reaped and nobody dropped
//                      READY                the end of the inventory; nothing follows it
//
// The inventory is sent at once after the fork. Neither side trusts a length: a packet of another size,
// kind or without its descriptor is dropped, and descriptors that come with it are closed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isopod::monitor {

constexpr int kListenFd = 3;  // the server's bound and listening ttrpc socket
constexpr int kStoreFd = 4;   // the server's end of the store; close-on-exec is for the server to set

// `<container id>/<exec id>/pidfd`: ids have at most 76 characters.
constexpr size_t kNameSize = 176;
// An absolute path below the state directory.
constexpr size_t kRecordSize = 256;
// Descriptors kept at most; the monitor raises RLIMIT_NOFILE to its hard limit at start.
constexpr size_t kMaxNames = 16384;

enum Kind : uint32_t {
  kPut = 1,
  kDrop = 2,
  kTask = 3,
  kFd = 16,
  kExit = 17,
  kReady = 18,
};

struct Message {
  uint32_t kind;
  int32_t pid;              // TASK: as the monitor's pid namespace counts
  int32_t status;           // EXIT: exit code, or 128 + signal
  uint32_t reserved;        // 0
  int64_t exited_at;        // EXIT: nanoseconds since 1970
  char name[kNameSize];     // NUL-terminated
  char record[kRecordSize];  // TASK: NUL-terminated
};
static_assert(sizeof(Message) == 24 + kNameSize + kRecordSize, "no padding: both sides are one build");

// An exit record is the one line
//   {"status":N,"exitedAt":"NANOSECONDS"}
// written to a temporary file beside it and renamed, before the process is reaped.
constexpr size_t kExitRecordMax = 96;

}  // namespace isopod::monitor
