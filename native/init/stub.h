// The init stub: the first instructions of a container (design rules R4 to R8). A static program
// without libc that the launcher executes from a sealed memfd. It performs one launch plan
// (core/plan.h) and then becomes the container by execve, or stays as the sandbox's first process.
//
// Everything here runs single-threaded, in a process of its own, and knows no path of the host
// beyond phase 1. A function returns a result >= 0 or -errno; `why` may say more. main.cc reports
// the first failure and exits. No memory is allocated but by mmap, nothing is freed: exec does it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kernel.h"
#include "core/plan.h"
#include "core/plan_check.h"
#include "core/report.h"

namespace isopod::init {

using plan::Op;
using plan::Open;

constexpr int kEperm = 1, kEnoent = 2, kEintr = 4, kEio = 5, kE2big = 7, kEagain = 11, kEnomem = 12,
              kEacces = 13, kEbusy = 16, kEexist = 17, kEnotdir = 20, kEisdir = 21, kEinval = 22,
              kEnametoolong = 36, kEnosys = 38, kEloop = 40, kEopnotsupp = 95, kEdquot = 122;

constexpr size_t kPathMax = 4096;

// All zero in the file: nobody runs initialisers before main, which sets what is not zero.
struct Stub {
  plan::View plan;
  int slots[plan::kMaxSlots];  // -1: empty
  int sync;
  int root;            // O_PATH of "the root", the place in which destinations are resolved
  int covered;         // O_PATH of what the last MountNew covered, for CopyUp
  int procfs;          // private procfs, made at the first write to it
  int masked;          // the read-only tmpfs that masks directories, attached at the first of them
  uint32_t mask_slot;  // whose mount is already attached, so that it is cloned from there
  bool umask_set;
  const char** arguments;  // of the exec that was prepared
  const char** environment;
  const char* why;
  char executable[kPathMax];  // what Lookup found
};

extern Stub stub;

// --- memory and strings (memory.cc) ---
size_t length(const char* text);
bool equal(const char* a, const char* b);
// Appends to a NUL-terminated buffer of `size` bytes; false if cut short.
bool append(char* buffer, size_t size, const char* text);
bool append_number(char* buffer, size_t size, int64_t value);
// Zeroed pages, or nullptr.
void* pages(size_t size);

// --- sync (sync.cc) ---
long report(const plan::Report& message, int fd);
long sync_point(uint32_t point);
[[noreturn]] void fail(uint32_t op, uint32_t index, long error, const char* subject,
                       const char* target);
long op_gate(const Op& op);
[[noreturn]] void op_pause(uint32_t index, const Op& op);

// --- phase 1 (prologue.cc, opens.cc) ---
// Sets oom_score_adj first (R5), then makes this process an ordinary one: not dumpable, no inherited
// signal dispositions, no stray descriptor, Node's raised RLIMIT_NOFILE lowered again, cwd "/".
long prologue();
// The fd of one Open, or -errno; -ENOENT for an optional one is kOptionalAbsent.
long perform_open(const Open& open);
constexpr long kOptionalAbsent = -4096;

// --- namespaces (namespaces.cc) ---
long op_setns(const Op& op);
long op_enter_base(const Op& op);
long op_successor(const Op& op);
long op_loopback_up();
long op_hostname(const Op& op, long number);

// --- paths inside the root (resolve.cc) ---
// Every name in the container's tree goes through these: openat2 beneath the root, links resolved
// as the container would, magic links refused (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).
long root_fd();
void set_root(int fd);
// An O_PATH descriptor (or as `flags` say) of an existing entry.
long resolve(const char* path, int flags, uint64_t extra = 0, unsigned mode = 0);
// mkdir -p: one mkdirat per component. Returns an O_PATH descriptor of the directory.
long make_directories(const char* path, unsigned mode, uint32_t uid, uint32_t gid,
                      uint64_t extra = 0);
// An O_PATH descriptor of the directory that holds the last component, whose name goes to `name`.
long resolve_parent(const char* path, char (&name)[256]);
long stat_fd(int fd, struct statx& out);
void close_fd(int& fd);

// --- the tree (mounts.cc, nodes.cc, mask.cc, copyup.cc) ---
long configure(int context, const char* option);
long new_filesystem(const char* type, const char* source, uint32_t options, unsigned attributes);
long set_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool recursive);
long op_attach_root(const Op& op);
long op_new_root(const Op& op);
long op_base_tree(const Op& op);
long op_mount_new(const Op& op);
long op_mount_tree(const Op& op);
long op_set_attr(const Op& op);
long op_propagate(const Op& op);
long op_pivot();
long op_chroot(const Op& op);
// Linux's own packing, for mknodat.
uint64_t device_number(uint32_t major, uint32_t minor);
long op_mkdir(const Op& op);
long op_symlink(const Op& op);
long op_mknod(const Op& op);
long op_write_file(const Op& op);
long op_mask(const Op& op);
long op_readonly(const Op& op);
long op_copy_up(const Op& op);

// --- the process (process.cc, identity.cc, stdio.cc) ---
long set_oom_score_adj(int32_t value);
long op_sysctl(const Op& op);
long op_apparmor(const Op& op);
long op_console(const Op& op);
long op_stdio(const Op& op);
long op_rlimit(const Op& op);
long op_pdeathsig(const Op& op);
long op_seccomp(const Op& op, const Op& next);
long install_filter(uint32_t blob, uint32_t size, uint32_t flags);
long op_bounding(const Op& op);
long op_groups(const Op& op);
long op_ids(const Op& op);
long op_cwd(const Op& op);
long op_caps(const Op& op);
long op_keyring(const Op& op);
long op_chown_stdio(const Op& op);

// --- the end (exec.cc) ---
long op_lookup(const Op& op);
// Idempotent: all of Exec but the call.
long prepare_exec(const Op& op);
long op_exec(const Op& op);

}  // namespace isopod::init
