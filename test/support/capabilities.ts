import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { cgroup2Mount } from "./host";
import type { Need } from "./needs";

/**
 * What the machine itself may lack, and the testbed (docs/testbed.md) always has. A test names it beside
 * its peers:
 *
 *   test("memory.max is felt", needs(capability("cgroup2:memory"), cni), async () => { … });
 *
 * Where it is missing the test is skipped with the reason "in the testbed: cgroup2:memory", and `npm test`
 * then runs the whole file in the testbed. Inside the testbed nothing of this kind is skipped: there a
 * missing capability fails the test, so that no test passes by running nowhere.
 */
export type Capability =
  /** The controller can be enabled below the root of the cgroup2 hierarchy. */
  | `cgroup2:${"cpu" | "cpuset" | "memory" | "io" | "pids" | "hugetlb" | "rdma" | "misc"}`
  /** PID 1 is systemd and answers on its private bus. */
  | "systemd"
  /** The kernel enforces AppArmor and takes profiles. */
  | "apparmor"
  /** /dev/kvm with a back end that boots a stock Linux kernel. */
  | "kvm-linux"
  | "swap"
  /** An ext4 file system on a disk of its own, and the io controller. */
  | "blockdev"
  /** Pressure stall information, of the machine and of cgroups. */
  | "psi"
  /** Huge pages of the default size are reserved. */
  | "hugepages"
  /** CAP_SYS_RESOURCE: raising hard limits, lowering oom_score_adj. */
  | "cap-sys-resource";

export interface Disk {
  /** Where the ext4 file system is mounted. */
  readonly dir: string;
  /** MAJOR:MINOR, as io.max wants it. */
  readonly device: string;
}

/** A need that the testbed fills: `needs` tells it from others by the name. */
export type CapabilityNeed<T> = Need<T> & { readonly capability: Capability };

export function capability(name: "blockdev"): CapabilityNeed<Disk>;
export function capability(name: Capability): CapabilityNeed<object>;
export function capability(name: Capability): CapabilityNeed<object> {
  if (!probed.has(name)) probed.set(name, probe(name));
  const found = probed.get(name);
  return { ...(found ?? { missing: `in the testbed: ${name}` }), capability: name };
}

const probed = new Map<Capability, object | undefined>();

/** Tells the runner of the whole suite that this file has tests for the testbed (test/testbed/plan.ts). */
export function reportLacking(name: Capability): void {
  const list = process.env["ISOPOD_TESTBED_LACKING"];
  if (list === undefined) return;
  const file = path.relative(process.cwd(), process.argv[1] ?? "");
  fs.appendFileSync(list, `${JSON.stringify({ file, capability: name })}\n`);
}

/** What is to be told of it; undefined where it is missing. */
function probe(name: Capability): object | undefined {
  if (name.startsWith("cgroup2:")) return when(controllers().includes(name.slice("cgroup2:".length)));
  switch (name) {
    case "systemd":
      return when(fs.existsSync("/run/systemd/system") && systemdAnswers());
    case "apparmor":
      return when(
        read("/sys/module/apparmor/parameters/enabled").startsWith("Y") &&
          fs.existsSync("/sys/kernel/security/apparmor/.load"),
      );
    case "kvm-linux":
      // A nested para-virtual /dev/kvm opens and answers every ioctl, but runs no stock kernel; only the
      // hardware's own extensions tell them apart without booting one.
      return when(fs.existsSync("/dev/kvm") && /^flags\s*:.*\b(vmx|svm)\b/m.test(read("/proc/cpuinfo")));
    case "swap":
      return when(read("/proc/swaps").trim().split("\n").length > 1);
    case "blockdev":
      return controllers().includes("io") ? disk() : undefined;
    case "psi":
      return when(read("/proc/pressure/memory").startsWith("some"));
    case "hugepages":
      return when(/^HugePages_Total:\s*[1-9]/m.test(read("/proc/meminfo")));
    case "cap-sys-resource": {
      const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(read("/proc/self/status"));
      return when(((BigInt(`0x${effective?.[1] ?? "0"}`) >> 24n) & 1n) === 1n);
    }
    default:
      throw new Error(`no such capability: ${name}`);
  }
}

function when(met: boolean): object | undefined {
  return met ? {} : undefined;
}

/** "" for what does not exist or, as /proc/pressure with PSI off, cannot be read. */
function read(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

function controllers(): string[] {
  const root = cgroup2Mount();
  return root === undefined ? [] : read(`${root}/cgroup.controllers`).trim().split(" ");
}

function systemdAnswers(): boolean {
  return spawnSync("systemctl", ["show", "--property=Version"], { stdio: "ignore" }).status === 0;
}

/** The first ext4 mount that is not the root: a whole disk, since io.max takes no partition. */
function disk(): Disk | undefined {
  for (const line of read("/proc/self/mountinfo").split("\n")) {
    const fields = line.split(" ");
    const [, , device, , dir] = fields;
    if (fields[fields.indexOf("-") + 1] !== "ext4" || dir === "/") continue;
    if (fs.existsSync(`/sys/dev/block/${device}/queue`)) return { dir: dir!, device: device! };
  }
  return undefined;
}
