import * as crypto from "node:crypto";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { defaultSeccomp } from "../../../src/runtime/default-seccomp";

/**
 * The container that every contender launches: as a kubelet's container is, with all its namespaces, a
 * network namespace included, the usual mounts, masks, devices, capabilities and the default seccomp
 * profile. No limits unless asked for: this machine's cgroup2 may lack the controllers.
 */
export interface Bundle {
  readonly dir: string;
  /** Of config.json: equal figures come from equal configurations. */
  readonly sha256: string;
}

const capabilities = [
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

const mounts = [
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
    options: ["ro", "nosuid", "noexec", "nodev", "relatime"],
  },
];

const devices = [
  { allow: false, access: "rwm" },
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  ...[
    [1, 3],
    [1, 5],
    [1, 7],
    [1, 8],
    [1, 9],
    [5, 0],
    [5, 2],
  ].map(([major, minor]) => ({ allow: true, type: "c", major, minor, access: "rwm" })),
  { allow: true, type: "c", major: 136, access: "rwm" },
];

/** What a pod with requests and limits has: three controllers, five files. */
const limits = {
  memory: { limit: 64 << 20, swap: 64 << 20 },
  pids: { limit: 100 },
  cpu: { shares: 512, quota: 200_000, period: 100_000 },
};

export function spec(args: readonly string[], cgroupsPath: string, limited = false) {
  const sets = { bounding: capabilities, effective: capabilities, permitted: capabilities };
  return {
    ociVersion: "1.0.2",
    process: {
      user: { uid: 0, gid: 0 },
      args,
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
      cwd: "/",
      capabilities: sets,
      noNewPrivileges: true,
      oomScoreAdj: 100,
    },
    root: { path: "rootfs" },
    hostname: "bench",
    mounts,
    linux: {
      cgroupsPath,
      resources: { devices, ...(limited && limits) },
      namespaces: ["pid", "network", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })),
      seccomp: defaultSeccomp(capabilities, {
        arch: process.arch === "arm64" ? "aarch64" : "x86_64",
        kernel: os.release(),
      }),
      maskedPaths: [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
      ],
      readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
  };
}

/** Writes rootfs and config.json below `dir`. */
export function writeBundle(
  dir: string,
  args: readonly string[],
  cgroupsPath: string,
  limited = false,
): Bundle {
  const root = path.join(dir, "rootfs");
  for (const name of ["bin", "dev", "etc", "proc", "root", "sys", "tmp"]) {
    fs.mkdirSync(path.join(root, name), { recursive: true });
  }
  fs.copyFileSync("/bin/busybox", path.join(root, "bin/busybox"));
  for (const applet of ["true", "sleep", "sh"]) fs.symlinkSync("busybox", path.join(root, "bin", applet));
  const config = JSON.stringify(spec(args, cgroupsPath, limited));
  fs.writeFileSync(path.join(dir, "config.json"), config);
  return { dir, sha256: crypto.createHash("sha256").update(config).digest("hex") };
}

/** The same bundle with another variable in its environment: nobody has seen its config.json before. */
export function renew(bundle: Bundle, round: number): void {
  const file = path.join(bundle.dir, "config.json");
  const config = JSON.parse(fs.readFileSync(file, "utf8")) as ReturnType<typeof spec>;
  const env = config.process.env.filter((entry) => !entry.startsWith("ROUND="));
  const process = { ...config.process, env: [...env, `ROUND=${round}`] };
  fs.writeFileSync(file, JSON.stringify({ ...config, process }));
}
