import type { Seccomp, SeccompArg, SeccompRule } from "../oci/runtime-spec";
import type { SeccompTarget } from "./seccomp";

/**
 * The default profile: what a container may call when nobody asked for another. The set is the one that
 * containerd and Docker have arrived at, so that images behave alike: everything but what administers the
 * host (mounts, modules, clocks, other processes, namespaces), which comes back with the capability
 * that the kernel wants for it anyway; and but what has been a way out too often (io_uring, keyrings, userfaultfd).
 */
const ALWAYS: readonly string[] = [
  // files and directories
  `
  access chdir chmod chown chown32 close close_range creat faccessat faccessat2 fanotify_mark fchdir
  fchmod fchmodat fchmodat2 fchown fchown32 fchownat flock fstat fstat64 fstatat64 fstatfs fstatfs64
  ftruncate ftruncate64 futimesat getcwd getdents getdents64 inotify_add_watch inotify_init inotify_init1
  inotify_rm_watch lchown lchown32 link linkat listmount lstat lstat64 mkdir mkdirat mknod mknodat
  name_to_handle_at newfstatat open openat openat2 readlink readlinkat rename renameat renameat2 rmdir
  stat stat64 statfs statfs64 statmount statx symlink symlinkat truncate truncate64 umask unlink unlinkat
  utime utimensat utimensat_time64 utimes
  `,
  // extended attributes
  `
  fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat
  llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
  `,
  // reading and writing
  `
  _llseek cachestat copy_file_range fadvise64 fadvise64_64 fallocate fdatasync fsync io_cancel io_destroy
  io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit lseek pread64 preadv preadv2 pwrite64
  pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee
  vmsplice write writev
  `,
  // descriptors and waiting on them
  `
  _newselect dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
  epoll_wait epoll_wait_old eventfd eventfd2 fcntl fcntl64 ioctl memfd_create memfd_secret pidfd_open
  pidfd_send_signal pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4
  timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
  `,
  // memory
  `
  brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal
  msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
  `,
  // processes and threads
  `
  execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
  get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage
  getsid gettid ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self
  lsm_get_self_attr lsm_list_modules lsm_set_self_attr prctl prlimit64 process_mrelease restart_syscall
  rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
  sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
  sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address
  setpgid setpriority setrlimit setsid times ugetrlimit uretprobe vfork wait4 waitid waitpid
  `,
  // users, groups and capabilities
  `
  capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid
  getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid
  setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
  setreuid32 setuid setuid32
  `,
  // signals
  `
  alarm kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
  rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill
  `,
  // time
  `
  adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
  clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
  timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
  `,
  // sockets
  `
  accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
  recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
  `,
  // System V IPC and message queues
  `
  ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
  mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
  semtimedop_time64 shmat shmctl shmdt shmget
  `,
  // the system
  `
  getrandom sysinfo uname
  `,
].flatMap(words);

/** The kernel checks these against the target's owner; ptrace no longer defeats seccomp since Linux 4.8. */
const TRACING = words("process_vm_readv process_vm_writev ptrace");

const BY_ARCHITECTURE: Readonly<Record<SeccompTarget["arch"], readonly string[]>> = {
  x86_64: words("arch_prctl modify_ldt"),
  aarch64: words("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
};

const BY_CAPABILITY: Readonly<Record<string, readonly string[]>> = {
  CAP_BPF: words("bpf"),
  CAP_DAC_READ_SEARCH: words("open_by_handle_at"),
  CAP_PERFMON: words("perf_event_open"),
  CAP_SYSLOG: words("syslog"),
  CAP_SYS_ADMIN: words(`
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr
    move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
    umount2 unshare
  `),
  CAP_SYS_BOOT: words("reboot"),
  CAP_SYS_CHROOT: words("chroot"),
  CAP_SYS_MODULE: words("delete_module finit_module init_module"),
  CAP_SYS_NICE: words("get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
  CAP_SYS_PACCT: words("acct"),
  CAP_SYS_PTRACE: words("kcmp pidfd_getfd process_madvise"),
  CAP_SYS_RAWIO: words("ioperm iopl"),
  CAP_SYS_TIME: words("clock_settime clock_settime64 settimeofday stime"),
  CAP_SYS_TTY_CONFIG: words("vhangup"),
};

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. */
const CLONE_NEW_NAMESPACES = 0x7e020000;
const ENOSYS = 38;

/**
 * Address families by the upper bits of their number: all below 64 but 38 (AF_ALG: the kernel's crypto
 * code, rich in holes) and 40 (AF_VSOCK: reaches the hypervisor). The kernel reads 32 bits of the argument,
 * so the rules compare 32: "greater than 40" on all 64 would let AF_ALG pass with bit 32 set. AF_MAX is 46.
 */
const FAMILIES: readonly (readonly [mask: number, value: number])[] = [
  [0xffffffe0, 0], // 0 to 31
  [0xfffffffc, 32], // 32 to 35
  [0xfffffffe, 36], // 36, 37
  [0xffffffff, 39],
  [0xffffffff, 41],
  [0xfffffffe, 42], // 42, 43
  [0xfffffffc, 44], // 44 to 47
  [0xfffffff0, 48], // 48 to 63
];

/** Linux, the same with short inodes, uname26 and both, "which one is it?". */
const PERSONALITIES = [0, 0x8, 0x20000, 0x20008, 0xffffffff];

const ARCHITECTURES: Readonly<Record<SeccompTarget["arch"], readonly string[]>> = {
  x86_64: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  aarch64: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
};

/** `boundingCapabilities`: the container's, with their `CAP_` prefix. */
export function defaultSeccomp(boundingCapabilities: readonly string[], target: SeccompTarget): Seccomp {
  const byCapability = boundingCapabilities.flatMap((capability) => BY_CAPABILITY[capability] ?? []);
  const names = new Set([...ALWAYS, ...TRACING, ...BY_ARCHITECTURE[target.arch], ...byCapability]);
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    architectures: ARCHITECTURES[target.arch],
    syscalls: [
      { names: [...names], action: "SCMP_ACT_ALLOW" },
      ...FAMILIES.map(([mask, value]) => allowIf("socket", masked(0, mask, value))),
      ...PERSONALITIES.map((value) => allowIf("personality", { index: 0, value, op: "SCMP_CMP_EQ" })),
      ...(boundingCapabilities.includes("CAP_SYS_ADMIN") ? [] : withoutNamespaces()),
    ],
  };
}

/** clone3 keeps its flags in memory, out of seccomp's sight. libc takes ENOSYS for "try clone". */
function withoutNamespaces(): readonly SeccompRule[] {
  return [
    allowIf("clone", masked(0, CLONE_NEW_NAMESPACES, 0)),
    { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: ENOSYS },
  ];
}

function allowIf(name: string, arg: SeccompArg): SeccompRule {
  return { names: [name], action: "SCMP_ACT_ALLOW", args: [arg] };
}

function masked(index: number, mask: number, value: number): SeccompArg {
  return { index, value: mask, valueTwo: value, op: "SCMP_CMP_MASKED_EQ" };
}

function words(text: string): readonly string[] {
  return text.trim().split(/\s+/);
}
