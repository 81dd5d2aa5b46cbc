import type { Process, Spec } from "../../src/oci/runtime-spec";
import type { Target } from "../../src/runtime/target";

/** A machine that exists on paper only: compiling is a pure function of it. */
export const target: Target = {
  kernel: "6.1.0",
  arch: "x86_64",
  cgroupRoot: "/sys/fs/cgroup",
  controllers: [],
  features: { cgroupKill: true },
  effectiveCapabilities: 0x1ffffffffffn,
  apparmor: false,
  selinux: false,
  oomScoreAdj: 0,
};

export const CAPABILITIES = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
];

export const processOf = (args: readonly string[], more: Partial<Process> = {}): Process => ({
  args,
  cwd: "/",
  env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
  user: { uid: 0, gid: 0 },
  capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
  noNewPrivileges: true,
  ...more,
});

/** What containerd and runc give a container that asks for nothing special. */
export const specOf = (args: readonly string[], more: Partial<Spec> = {}): Spec => ({
  ociVersion: "1.1.0",
  process: processOf(args),
  root: { path: "rootfs" },
  hostname: "box",
  mounts: [
    { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
    {
      destination: "/dev",
      type: "tmpfs",
      source: "tmpfs",
      options: ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
      destination: "/dev/pts",
      type: "devpts",
      source: "devpts",
      options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
      destination: "/dev/shm",
      type: "tmpfs",
      source: "shm",
      options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
    { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
    {
      destination: "/sys/fs/cgroup",
      type: "cgroup",
      source: "cgroup",
      options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
    },
  ],
  linux: {
    namespaces: [
      { type: "pid" },
      { type: "network" },
      { type: "ipc" },
      { type: "uts" },
      { type: "mount" },
      { type: "cgroup" },
    ],
    maskedPaths: [
      "/proc/acpi",
      "/proc/asound",
      "/proc/kcore",
      "/proc/keys",
      "/proc/latency_stats",
      "/proc/timer_list",
      "/proc/timer_stats",
      "/proc/sched_debug",
      "/sys/firmware",
      "/proc/scsi",
    ],
    readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    resources: { devices: [{ allow: false, access: "rwm" }] },
  },
  ...more,
});
