// What the init stub says to its launcher, and how it is started. Both are one build; no version.
//
// The stub is executed with these descriptors and an empty environment:
//   0, 1, 2   /dev/null of the host
//   3         the plan, a memfd
//   4         sync: its end of a SOCK_SEQPACKET pair
//   5 ...     LaunchOptions.fds
// It sends Reports, each one packet. kReportSync wants one byte back (the go) except at READY,
// which is only told. End of file without a failure means that the final exec succeeded: the socket
// is close-on-exec.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isopod::plan {

constexpr int kPlanFd = 3;
constexpr int kSyncFd = 4;
constexpr int kFirstFd = 5;
constexpr uint32_t kMaxFds = 64;

enum ReportType : uint32_t {
  kReportSync = 1,       // value = SyncPoint
  kReportFailed = 2,     // op, index, error, texts
  kReportPty = 3,        // with the master of the pty
  kReportSuccessor = 4,  // value = its pid in the stub's pid namespace, with its pidfd
};

struct Report {
  uint32_t type;
  uint32_t op;     // OpCode of the failed step
  uint32_t index;  // which open, or which op
  int32_t error;   // errno
  uint32_t value;
  uint32_t reserved;
  char subject[256];  // what an error names; cut short if it must be
  char target[256];   // the destination, for ops that have one beside the subject
  char why[64];       // instead of the errno's text, if not empty
};
static_assert(sizeof(Report) == 24 + 256 + 256 + 64, "no padding");

}  // namespace isopod::plan
