import * as fs from "node:fs";
import { messageOf } from "../base/errors";
import { type HostFeatures, native } from "../native";
import { CAPABILITIES } from "../oci/capabilities";
import { CAP_SYS_RESOURCE } from "./capabilities";

/** What this host can run, why not, and how to cure it. */
export interface HostReport {
  /** Containers can be run: no finding is an error. */
  readonly ok: boolean;
  readonly kernel: string;
  readonly arch: string;
  readonly findings: readonly Finding[];
}

export interface Finding {
  /** What was looked at, e.g. `cgroup2`. */
  readonly name: string;
  /** `error`: containers cannot run. `warning`: something is missing that they can do without. */
  readonly level: "ok" | "warning" | "error";
  readonly detail: string;
  /** What to do about it. */
  readonly cure?: string;
}

/** Rounded down to what the launch core relies on (RHEL 9's 5.14 carries what it needs of 5.15). */
const OLDEST = [5, 14] as const;
const NEEDED = ["CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_NET_ADMIN"];

/** Looks; changes nothing. Never throws: what cannot be looked at is a finding. */
export function check(): HostReport {
  let host: HostFeatures;
  try {
    host = native().features();
  } catch (error) {
    const finding: Finding = {
      name: "addon",
      level: "error",
      detail: messageOf(error),
      cure: "run `npm run build` on this machine",
    };
    return { ok: false, kernel: "", arch: process.arch, findings: [finding] };
  }
  const findings = [
    kernelFinding(host),
    userFinding(host),
    cgroupFinding(host),
    controllersFinding(host),
    resourceFinding(host),
    namespacesFinding(),
    memfdFinding(),
    kvmFinding(),
  ];
  const ok = findings.every(({ level }) => level !== "error");
  return { ok, kernel: host.kernel, arch: host.arch, findings };
}

function kernelFinding({ kernel }: HostFeatures): Finding {
  const [major = 0, minor = 0] = kernel.split(".").map((part) => Number.parseInt(part, 10));
  const good = major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
  return good
    ? { name: "kernel", level: "ok", detail: kernel }
    : {
        name: "kernel",
        level: "error",
        detail: `${kernel} is too old`,
        cure: `boot Linux ${OLDEST.join(".")} or later`,
      };
}

function userFinding({ effectiveCapabilities }: HostFeatures): Finding {
  const missing = NEEDED.filter(
    (name) => (effectiveCapabilities & (1n << BigInt(CAPABILITIES.indexOf(name as never)))) === 0n,
  );
  if (process.getuid?.() !== 0)
    return { name: "user", level: "error", detail: `uid ${process.getuid?.()}`, cure: "run as root" };
  return missing.length === 0
    ? { name: "user", level: "ok", detail: "root" }
    : {
        name: "user",
        level: "error",
        detail: `root without ${missing.join(", ")}`,
        cure: "grant them to the service or container that this runs in",
      };
}

function cgroupFinding({ cgroupRoot }: HostFeatures): Finding {
  return cgroupRoot
    ? { name: "cgroup2", level: "ok", detail: cgroupRoot }
    : {
        name: "cgroup2",
        level: "error",
        detail: "not mounted",
        cure: "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified",
      };
}

function controllersFinding({ controllers }: HostFeatures): Finding {
  const missing = ["cpu", "memory", "pids", "io"].filter((name) => !controllers.includes(name));
  return missing.length === 0
    ? { name: "controllers", level: "ok", detail: controllers.join(" ") }
    : {
        name: "controllers",
        level: "warning",
        detail: `cgroup2 has no ${missing.join(", ")}: limits of them are refused, statistics lack them`,
        cure: "boot with cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1",
      };
}

function resourceFinding({ effectiveCapabilities }: HostFeatures): Finding {
  return (effectiveCapabilities & CAP_SYS_RESOURCE) !== 0n
    ? { name: "CAP_SYS_RESOURCE", level: "ok", detail: "present" }
    : {
        name: "CAP_SYS_RESOURCE",
        level: "warning",
        detail: "absent: hard limits cannot be raised nor oom scores lowered",
        cure: "grant it to the service or container that this runs in",
      };
}

function namespacesFinding(): Finding {
  const missing = ["mnt", "pid", "net", "ipc", "uts", "cgroup"].filter(
    (name) => !fs.existsSync(`/proc/self/ns/${name}`),
  );
  return missing.length === 0
    ? { name: "namespaces", level: "ok", detail: "mnt pid net ipc uts cgroup" }
    : {
        name: "namespaces",
        level: "error",
        detail: `the kernel has no ${missing.join(", ")}`,
        cure: "use a kernel with CONFIG_NAMESPACES and its parts",
      };
}

/** The stub is executed from a sealed memfd; where that is forbidden a file on a private tmpfs serves. */
function memfdFinding(): Finding {
  let setting = "0";
  try {
    setting = fs.readFileSync("/proc/sys/vm/memfd_noexec", "utf8").trim();
  } catch {}
  return setting === "2"
    ? {
        name: "memfd",
        level: "warning",
        detail: "vm.memfd_noexec is 2: the stub runs from a private tmpfs instead",
        cure: "sysctl vm.memfd_noexec=1",
      }
    : { name: "memfd", level: "ok", detail: `vm.memfd_noexec is ${setting}` };
}

/** Containers do without. A KVM that opens may still boot no Linux: one that is itself para-virtual. */
function kvmFinding(): Finding {
  const name = "kvm";
  try {
    native().vmProbe();
  } catch (error) {
    // The text ends in the cure.
    const text = messageOf(error);
    const at = text.lastIndexOf(": ");
    const [detail, cure] = [text.slice(0, at), text.slice(at + 2)];
    return { name, level: "warning", detail: `no virtual machines: ${detail}`, cure };
  }
  if (process.arch === "x64" && !hardwareVirtualization())
    return {
      name,
      level: "warning",
      detail: "/dev/kvm is there without VMX or SVM: a para-virtual KVM, on which no stock Linux boots",
      cure: "use a machine with hardware virtualization, or nested virtualization by VMX or SVM",
    };
  return { name, level: "ok", detail: "boots Linux in virtual machines" };
}

function hardwareVirtualization(): boolean {
  try {
    return /^flags\s*:.*\b(vmx|svm)\b/m.test(fs.readFileSync("/proc/cpuinfo", "utf8"));
  } catch {
    return false;
  }
}
