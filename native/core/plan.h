// The launch plan: what the init stub performs, compiled from the OCI spec by src/runtime and
// written by src/native/plan.ts, which mirrors every number here (a test compares the two).
//
// A plan is one flat buffer, no pointers, all integers little-endian:
//
//   Header | Open[open_count] | Op[op_count] | data
//
// Strings and blobs live in `data` and are named by their offset from the start of the buffer.
// Offset 0 is "none". A string ends with NUL. A list is u32 count, then count string offsets. The
// buffer's last byte is 0. Whoever reads a plan checks it once, whole, with check_plan()
// (core/plan_check.h).
//
// The stub runs in three phases (rule R8, "open on the host, build on an empty base"):
//   1. opens: in the host's mount namespace every host path becomes an fd in a slot;
//   2. ops, in order: namespaces, base, mounts, pivot, identity. They name slots, never host paths;
//   3. the last op is EXEC or PAUSE.
// Whatever fails is reported as {op, index, errno, subject} on the sync socket; the stub then
// exits.
#pragma once

#include <cstdint>

namespace isopod::plan {

constexpr uint32_t kMagic = 0x504f5349;  // "ISOP"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxSize = 1u << 20;
constexpr uint32_t kMaxSlots = 256;
constexpr uint32_t kNoSlot = 0xffffffff;

struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t size;  // of the whole buffer
  uint32_t open_count;
  uint32_t op_count;
  uint32_t clone_flags;   // CLONE_NEW* for clone3; never NEWNS, NEWUSER, NEWTIME or NEWCGROUP
  int32_t oom_score_adj;  // the stub's first act (R5); kKeepOom leaves it
  uint32_t flags;         // HeaderFlag
};
constexpr int32_t kKeepOom = INT32_MIN;
enum HeaderFlag : uint32_t {
  // A score the caller may not lower is left where it is (no CAP_SYS_RESOURCE) instead of failing.
  kOomBestEffort = 1,
  // Set by the launcher: behave as on the oldest kernel supported (ISOPOD_FEATURES=5.15).
  kFloor = 2,
  // Set by the launcher: the process is not where it belongs yet. PLACED comes before the first open.
  kPlace = 4,
};
// Set by the launcher, which then leaves NEWNET out of clone3: 1 + the number, among the
// descriptors it hands over, of a new network namespace that it had in reserve.
constexpr uint32_t kNetnsShift = 8;
constexpr uint32_t kNetnsMask = 0xff;
// In the fault build of the stub: 1 + the number of the step that fails with EIO, opens counted
// first.
constexpr uint32_t kFaultShift = 16;

// Phase 1. `slot` receives the fd. `path` is a host path, also the subject of an error.
struct Open {
  uint32_t kind;  // OpenKind
  uint32_t slot;
  uint32_t path;   // string
  uint32_t flags;  // per kind
  uint32_t a;
  uint32_t b;
  uint32_t list;  // list of strings, per kind
  uint32_t data;  // string, per kind
};

enum OpenKind : uint32_t {
  // open_tree(path, OPEN_TREE_CLONE [| AT_RECURSIVE if flags & 1]); symlinks are followed. With
  // flags & 2 a missing path leaves the slot empty instead of failing.
  kOpenTree = 1,
  // Overlay by fsopen("overlay") + fsconfig(list: "key=value" or "key") + fsmount(MOUNT_ATTR_* =
  // flags), after chdir(path): lowerdir, upperdir and workdir may be relative to it. Values beyond
  // 255 bytes are handed over by `lowerdir+`, else by mount(2) in a throw-away mount namespace.
  kOpenOverlay = 2,
  // A namespace file; a = the CLONE_NEW* type it must have (NS_GET_NSTYPE), fs type NSFS.
  kOpenNamespace = 3,
  // open(path, flags); a = uid, b = gid to fchown it to (0xffffffff: leave). For stdio FIFOs and
  // the gate.
  kOpenFile = 4,
  // The launcher's fd number a of LaunchOptions.fds.
  kOpenFd = 5,
  // A detached clone of a device node, for Mask and MountTree; its type (flags: S_IFCHR/S_IFBLK),
  // major a and minor b are verified.
  kOpenDevice = 6,
  // Any other filesystem by fsopen(data) + fsconfig(list) + fsmount(flags); `path` is its source.
  kOpenFilesystem = 7,
};

// Phase 2. `subject` is a string that an error names. x and y are 64-bit operands.
struct Op {
  uint32_t op;       // OpCode
  uint32_t subject;  // string
  uint32_t a, b, c, d;
  uint64_t x, y;
};

enum OpCode : uint32_t {
  // 0..15 are steps of launcher and stub that no plan lists; they appear in error records only.
  kStepNone = 0,
  // reading and checking the plan
  kStepPlan = 1,
  // launcher: cgroup made, device program attached
  kStepCgroup = 2,
  // launcher: clone3
  kStepClone = 3,
  // launcher's child: execveat of the stub
  kStepStub = 4,
  // stub: oom_score_adj, dumpable, signals, close_range, chdir
  kStepPrologue = 5,
  // stub: an Open; index says which
  kStepOpen = 6,

  // --- namespaces ---
  // setns(slot a, types b), which consumes the slot: a namespace, or a pidfd of a process whose
  // namespaces of these types are entered. Not for pid and cgroup of somebody else (R4):
  // kOpSuccessor.
  kOpSetns = 16,
  // unshare(a). NEWCGROUP after placement, NEWNS never (kOpEnterBase does).
  kOpUnshare = 17,
  // setns(slot a, NEWNS), a pidfd as well, + unshare(NEWNS); cwd and root are the base's root.
  kOpEnterBase = 18,
  // R4: setns(pid ns or pidfd slot a, kNoSlot: none), then go on as a clone made with CLONE_PARENT into the
  // cgroup of slot b (kNoSlot: none); its pid is reported and the first stub exits 0.
  kOpSuccessor = 19,
  // bring `lo` up in the current network namespace, by netlink.
  kOpLoopbackUp = 20,
  // subject
  kOpHostname = 21,
  // subject
  kOpDomainname = 22,
  // setsid(); not for PAUSE'd joins
  kOpSetsid = 23,

  // --- the tree, before pivot; destinations (string c) are resolved inside the new root ---
  // move_mount(slot a) over the base's /root, MOUNT_ATTR set x / clear y, propagation b
  // (MS_PRIVATE/SLAVE/SHARED/UNBINDABLE [| MS_REC], 0: leave); it becomes "the root".
  kOpAttachRoot = 32,
  // a new tmpfs (list of options d) as root: for the sandbox's own namespace.
  kOpNewRoot = 33,
  // slot a = open_tree(subject, CLONE | (b & 1 ? RECURSIVE : 0)) in the base.
  kOpBaseTree = 34,
  // fsopen(string a), fsconfig(list d, source string b), attrs x, onto string c; y = propagation.
  // `cgroup` means cgroup2; `proc` and `sysfs` targets must be real directories; a tmpfs without a
  // mode takes that of the directory it covers. A missing destination is made: a directory.
  kOpMountNew = 35,
  // attach slot a at string c: attrs set x / clear y (recursive if b & 1), propagation d. The slot
  // is consumed. An empty slot (optional open) makes the op a no-op.
  kOpMountTree = 36,
  // mount_setattr(c, set x, clear y, recursive if b & 1): late read-only.
  kOpSetAttr = 37,
  // mount_setattr(c, propagation a, recursive if b & 1)
  kOpPropagate = 38,
  // mkdir -p c, mode a, uid/gid of new directories = x low/high 32 bits
  kOpMkdir = 39,
  // c -> string a; an existing entry stays
  kOpSymlink = 40,
  // c; a = mode | S_IFCHR/BLK/FIFO, b = major << 20 | minor, x = uid | gid << 32; an existing node
  // of the same type and number is kept, any other is an error
  kOpMknod = 41,
  // c; blob at a of b bytes; mode d; O_EXCL unless x & 1
  kOpWriteFile = 42,
  // c: file -> bind of slot a (host /dev/null), directory -> read-only tmpfs; absent: skip
  kOpMask = 43,
  // c: recursive bind of itself, then read-only keeping nosuid/nodev/noexec; absent: skip
  kOpReadonly = 44,
  // pivot_root(".", "."), old root detached, cwd "/"
  kOpPivot = 45,
  // tmpcopyup: c's content copied into the mount that MountNew just put there
  kOpCopyUp = 46,
  // chroot(c), cwd "/"
  kOpChroot = 47,

  // --- the process ---
  // write string a to /proc/sys/<c> through a private procfs, no symlinks, no crossing
  kOpSysctl = 64,
  // new pty from the container's devpts, size x = rows << 16 | cols; the master goes to the
  // launcher, the slave becomes stdio, controlling terminal and (b & 1) /dev/console
  kOpConsole = 65,
  // fds 0,1,2 = slots a,b,c; kNoSlot: /dev/null of the root (verified 1:3)
  kOpStdio = 66,
  // a = resource, soft x, hard y
  kOpRlimit = 67,
  // a
  kOpUmask = 68,
  // a = signal, set after the last uid change; the stub exits if its parent is gone
  kOpPdeathsig = 69,
  kOpNoNewPrivs = 70,
  // sock_filter[] blob at a, b bytes; c = seccomp(2) filter flags
  kOpSeccomp = 71,
  // x = set to keep
  kOpBounding = 72,
  // blob at a: b u32 group ids
  kOpGroups = 73,
  // uid a, gid b; keeps capabilities for kOpCaps
  kOpIds = 74,
  // chdir(c), made if missing (a & 1), getcwd must be absolute and inside
  kOpCwd = 75,
  // effective x, permitted y; inheritable blob at a (u64), ambient blob at b (u64)
  kOpCaps = 76,
  // a (int32)
  kOpOomScoreAdj = 77,
  // a new session keyring named subject; ENOSYS and EDQUOT are ignored
  kOpKeyring = 78,
  // fds 0..2 that are not /dev/null go to uid a
  kOpChownStdio = 79,
  // PR_SET_DUMPABLE a
  kOpDumpable = 80,
  // the AppArmor profile `subject` takes effect at the exec
  kOpApparmor = 81,

  // --- ends ---
  // a = SyncPoint: reported, then the stub waits for the launcher's go
  kOpSync = 96,
  // READY is reported, then one byte is read from slot a; EOF ends the stub
  kOpGate = 97,
  // resolve argv[0] (list a, envp list b: PATH); fails as "executable file not found"
  kOpLookup = 98,
  // close everything else, execve(argv list a, envp list b)
  kOpExec = 99,
  // READY, then reap children for ever; R6: a filter of a handful of calls (blob a, b bytes), only
  // the control socket open; ends when SIGTERM or SIGKILL comes
  kOpPause = 100,
};

// At PLACED and HOOKS the stub waits for the launcher. READY (told by Gate and Pause) and EXECUTING
// (told by Exec, right before the call: end of file without it means that the stub was killed) are
// only reported.
enum SyncPoint : uint32_t { kPlaced = 1, kHooks = 2, kReady = 3, kExecuting = 4 };

}  // namespace isopod::plan
