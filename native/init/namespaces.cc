// Entering namespaces. Nothing of somebody else's pid namespace or cgroup is entered before the
// stub has a memory of its own (R4); what is entered by clone comes last.
#include "init/stub.h"

namespace isopod::init {

namespace {

struct CloneArguments {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
      set_tid_size, cgroup;
};

// rtnetlink: struct nlmsghdr and ifinfomsg.
struct LinkRequest {
  uint32_t size;
  uint16_t type;
  uint16_t flags;
  uint32_t sequence;
  uint32_t port;
  uint8_t family;
  uint8_t padding;
  uint16_t link_type;
  int32_t index;
  uint32_t link_flags;
  uint32_t change;
};
struct LinkReply {
  uint32_t size;
  uint16_t type;
  uint16_t flags;
  uint32_t sequence;
  uint32_t port;
  int32_t error;
  LinkRequest request;
};
constexpr uint16_t kNewLink = 16;        // RTM_NEWLINK
constexpr uint16_t kRequestAck = 1 | 4;  // NLM_F_REQUEST | NLM_F_ACK
constexpr uint32_t kUp = 1;              // IFF_UP
constexpr int32_t kLoopback = 1;         // the first interface of every network namespace

}  // namespace

// Consumes the slot. A pid namespace is entered by its next child, so only a successor does that
// (R4).
long op_setns(const Op& op) {
  if ((op.b & CLONE_NEWPID) != 0) return -kEinval;
  const long error = sys::setns(stub.slots[op.a], op.b);
  if (error < 0) return error;
  close_fd(stub.slots[op.a]);
  if ((op.b & CLONE_NEWNS) != 0) set_root(-1);  // "the root" is that of the namespace just entered
  return 0;
}

// The clone of the base is ours alone; setns has moved cwd and root to its root. Consumes the slot.
long op_enter_base(const Op& op) {
  if (const long error = sys::setns(stub.slots[op.a], CLONE_NEWNS); error < 0) return error;
  close_fd(stub.slots[op.a]);
  set_root(-1);
  return sys::unshare(CLONE_NEWNS);
}

// The successor shares nothing with Node. It is a child of the launcher (CLONE_PARENT), which
// learns its pid and pidfd from us; then the first stub's work is done. Consumes both slots.
long op_successor(const Op& op) {
  if (op.a != plan::kNoSlot) {
    if (const long error = sys::setns(stub.slots[op.a], CLONE_NEWPID); error < 0) return error;
    close_fd(stub.slots[op.a]);
  }
  int told[2] = {-1, -1};
  if (const long error = sys::raw(SYS_pipe2, sys::word(told), sys::kCloexec); error < 0)
    return error;
  int pidfd = -1;
  CloneArguments arguments{};
  arguments.flags = CLONE_PARENT | CLONE_PIDFD;
  arguments.pidfd = static_cast<uint64_t>(sys::word(&pidfd));
  if (op.b != plan::kNoSlot) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<uint64_t>(stub.slots[op.b]);
  }
  const long pid = sys::raw(SYS_clone3, sys::word(&arguments), sizeof(arguments));
  if (pid < 0) return pid;
  if (pid > 0) {
    plan::Report message{};
    message.type = plan::kReportSuccessor;
    message.value = static_cast<uint32_t>(pid);
    report(message, pidfd);
    sys::write(told[1], "", 1);
    sys::exit_group(0);
  }
  // What the successor says must not overtake the report of who it is.
  close_fd(told[1]);
  char go = 0;
  if (sys::read(told[0], &go, 1) != 1) sys::exit_group(1);
  close_fd(told[0]);
  if (op.b != plan::kNoSlot) close_fd(stub.slots[op.b]);
  return 0;
}

long op_loopback_up() {
  constexpr int kNetlink = 16, kRaw = 3, kCloexec = 02000000;
  const long socket = sys::raw(SYS_socket, kNetlink, kRaw | kCloexec, 0);
  if (socket < 0) return socket;
  const int fd = static_cast<int>(socket);
  LinkRequest request{};
  request.size = sizeof(request);
  request.type = kNewLink;
  request.flags = kRequestAck;
  request.index = kLoopback;
  request.link_flags = kUp;
  request.change = kUp;
  LinkReply reply{};
  long result = sys::write(fd, &request, sizeof(request));
  if (result >= 0) result = sys::read(fd, &reply, sizeof(reply));
  sys::close(fd);
  return result < 0 ? result : reply.error;
}

long op_hostname(const Op& op, long number) {
  const char* name = stub.plan.string(op.subject);
  return sys::raw(number, sys::word(name), static_cast<long>(length(name)));
}

}  // namespace isopod::init
