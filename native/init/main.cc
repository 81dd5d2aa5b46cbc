// Reads the plan, performs its opens, then its ops, in order. The first failure is reported and
// ends us.
#include <linux/prctl.h>

#include "init/stub.h"

namespace isopod::init {

namespace {

const char* string(uint32_t offset) { return stub.plan.string(offset); }

// The destination of an op that has one (operand c), for the error's text.
const char* target_of(const Op& op) {
  switch (op.op) {
    case plan::kOpMountNew:
    case plan::kOpMountTree:
    case plan::kOpSetAttr:
    case plan::kOpPropagate:
    case plan::kOpMkdir:
    case plan::kOpSymlink:
    case plan::kOpMknod:
    case plan::kOpWriteFile:
    case plan::kOpMask:
    case plan::kOpReadonly:
    case plan::kOpCopyUp:
    case plan::kOpChroot:
    case plan::kOpSysctl:
    case plan::kOpCwd:
      return string(op.c);
    default:
      return "";
  }
}

// The host path behind a slot.
const char* origin_of(uint32_t slot) {
  for (uint32_t i = 0; i < stub.plan.header().open_count; i++)
    if (stub.plan.open(i).slot == slot) return string(stub.plan.open(i).path);
  return "";
}

// What is mounted, executed or changed; "" if the destination says it all.
const char* subject_of(const Op& op) {
  const char* given = string(op.subject);
  if (*given != 0 && !equal(given, target_of(op))) return given;
  if (op.op == plan::kOpExec || op.op == plan::kOpLookup) return stub.plan.list_item(op.a, 0);
  if (op.op == plan::kOpMountNew) return string(op.a);
  if (op.op == plan::kOpMountTree) return origin_of(op.a);
  return "";
}

// Which step the fault build fails, counting opens first; 0 is none.
bool fault(uint32_t step) {
#ifdef ISOPOD_FAULT
  return stub.plan.header().flags >> plan::kFaultShift == step + 1;
#else
  static_cast<void>(step);
  return false;
#endif
}

long map_plan() {
  struct statx stat {};
  if (const long error = stat_fd(plan::kPlanFd, stat); error < 0) return error;
  constexpr long kProtRead = 1, kPrivate = 2, kPopulate = 0x8000;
  const long address = sys::raw(SYS_mmap, 0, static_cast<long>(stat.stx_size), kProtRead,
                                kPrivate | kPopulate, plan::kPlanFd, 0);
  if (address < 0) return address;
  const auto* bytes = reinterpret_cast<const uint8_t*>(address);
  if (plan::check_plan(bytes, stat.stx_size) != nullptr) return -kEinval;
  stub.plan = plan::View(bytes);
  return sys::close(plan::kPlanFd);
}

long unshare(const Op& op) {
  if ((op.a & CLONE_NEWNS) != 0) return -kEinval;  // only EnterBase makes one, of the empty base
  return sys::unshare(op.a);
}

long perform(uint32_t index, const Op& op) {
  switch (op.op) {
    case plan::kOpSetns:
      return op_setns(op);
    case plan::kOpUnshare:
      return unshare(op);
    case plan::kOpEnterBase:
      return op_enter_base(op);
    case plan::kOpSuccessor:
      return op_successor(op);
    case plan::kOpLoopbackUp:
      return op_loopback_up();
    case plan::kOpHostname:
      return op_hostname(op, SYS_sethostname);
    case plan::kOpDomainname:
      return op_hostname(op, SYS_setdomainname);
    case plan::kOpSetsid:
      return sys::raw(SYS_setsid);
    case plan::kOpAttachRoot:
      return op_attach_root(op);
    case plan::kOpNewRoot:
      return op_new_root(op);
    case plan::kOpBaseTree:
      return op_base_tree(op);
    case plan::kOpMountNew:
      return op_mount_new(op);
    case plan::kOpMountTree:
      return op_mount_tree(op);
    case plan::kOpSetAttr:
      return op_set_attr(op);
    case plan::kOpPropagate:
      return op_propagate(op);
    case plan::kOpMkdir:
      return op_mkdir(op);
    case plan::kOpSymlink:
      return op_symlink(op);
    case plan::kOpMknod:
      return op_mknod(op);
    case plan::kOpWriteFile:
      return op_write_file(op);
    case plan::kOpMask:
      return op_mask(op);
    case plan::kOpReadonly:
      return op_readonly(op);
    case plan::kOpPivot:
      return op_pivot();
    case plan::kOpCopyUp:
      return op_copy_up(op);
    case plan::kOpChroot:
      return op_chroot(op);
    case plan::kOpSysctl:
      return op_sysctl(op);
    case plan::kOpConsole:
      return op_console(op);
    case plan::kOpStdio:
      return op_stdio(op);
    case plan::kOpRlimit:
      return op_rlimit(op);
    case plan::kOpUmask:
      stub.umask_set = true;
      return sys::raw(SYS_umask, static_cast<long>(op.a));
    case plan::kOpPdeathsig:
      return op_pdeathsig(op);
    case plan::kOpNoNewPrivs:
      return sys::prctl(PR_SET_NO_NEW_PRIVS, 1);
    case plan::kOpSeccomp:
      return op_seccomp(op, stub.plan.op(index + 1));  // never the last op
    case plan::kOpBounding:
      return op_bounding(op);
    case plan::kOpGroups:
      return op_groups(op);
    case plan::kOpIds:
      return op_ids(op);
    case plan::kOpCwd:
      return op_cwd(op);
    case plan::kOpCaps:
      return op_caps(op);
    case plan::kOpOomScoreAdj:
      return set_oom_score_adj(static_cast<int32_t>(op.a));
    case plan::kOpKeyring:
      return op_keyring(op);
    case plan::kOpChownStdio:
      return op_chown_stdio(op);
    case plan::kOpDumpable:
      return sys::prctl(PR_SET_DUMPABLE, static_cast<long>(op.a));
    case plan::kOpApparmor:
      return op_apparmor(op);
    case plan::kOpSync:
      return sync_point(op.a);
    case plan::kOpGate:
      return op_gate(op);
    case plan::kOpLookup:
      return op_lookup(op);
    case plan::kOpExec:
      return op_exec(op);
    case plan::kOpPause:
      op_pause(index, op);
    default:
      return -kEinval;
  }
}

void perform_opens() {
  for (uint32_t i = 0; i < stub.plan.header().open_count; i++) {
    const Open& open = stub.plan.open(i);
    const long fd = fault(i) ? -kEio : perform_open(open);
    if (fd < 0 && fd != kOptionalAbsent) fail(plan::kStepOpen, i, fd, string(open.path), "");
    close_fd(stub.slots[open.slot]);
    stub.slots[open.slot] = fd < 0 ? -1 : static_cast<int>(fd);
  }
}

void perform_ops() {
  const plan::Header& header = stub.plan.header();
  for (uint32_t i = 0; i < header.op_count; i++) {
    const Op& op = stub.plan.op(i);
    const long result = fault(header.open_count + i) ? -kEio : perform(i, op);
    if (result < 0) fail(op.op, i, result, subject_of(op), target_of(op));
  }
}

}  // namespace

extern "C" [[noreturn]] void isopod_init_main() {
  for (int& slot : stub.slots) slot = -1;
  stub.sync = plan::kSyncFd;
  stub.root = stub.covered = stub.procfs = stub.masked = -1;
  stub.mask_slot = plan::kNoSlot;
  if (const long error = map_plan(); error < 0) fail(plan::kStepPlan, 0, error, "", "");
  if (const long error = prologue(); error < 0) fail(plan::kStepPrologue, 0, error, "", "");
  if ((stub.plan.header().flags & plan::kPlace) != 0)
    if (const long error = sync_point(plan::kPlaced); error < 0)
      fail(plan::kOpSync, 0, error, "", "");
  perform_opens();
  perform_ops();
  sys::exit_group(1);
}

}  // namespace isopod::init

#ifndef ISOPOD_HOSTED
ISOPOD_ENTRY(isopod_init_main);
#endif
