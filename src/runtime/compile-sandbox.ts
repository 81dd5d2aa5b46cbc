import { OP, OPEN, PlanWriter } from "../native";
import type { NamespaceType, Seccomp } from "../oci/runtime-spec";
import { ATTR } from "./mount-options";
import { CLONE, cloneFlags } from "./namespaces";
import { compileSeccomp } from "./seccomp";
import { writeSysctls } from "./sysctl";
import type { Target } from "./target";
import type { SandboxOptions } from "./types";

const NOBODY = 65535;
const SIGKILL = 9;
const SHM_MODE = "mode=1777";

/** R6: what the waiting stub still does. Everything else kills it. */
const PAUSE_FILTER: Seccomp = {
  defaultAction: "SCMP_ACT_KILL_PROCESS",
  syscalls: [
    {
      names: ["sendmsg", "rt_sigtimedwait", "wait4", "exit_group"],
      action: "SCMP_ACT_ALLOW",
    },
  ],
};

/** The score of a process that holds a pod together and owns next to nothing (kubelet's for pause). */
const OOM_SCORE = -998;

/**
 * The sandbox stub: first process of the pod. It makes the pod's namespaces and, as root of its own mount
 * namespace, the small tree that is its containers' base: /root where theirs is attached, /shm, /files. Then
 * it locks itself into /empty (R6), since containers that share its pid namespace can reach it.
 */
export function compileSandbox(options: SandboxOptions, target: Target, dieWithParent: boolean): Uint8Array {
  const plan = new PlanWriter();
  const wanted = sandboxNamespaces(options);
  const base = plan.open(OPEN.fd, { path: "base", a: 0 });
  if (options.netns) {
    const netns = plan.open(OPEN.namespace, { path: options.netns, a: CLONE.network });
    plan.op(OP.setns, { a: netns, b: CLONE.network, subject: options.netns });
  }
  plan.op(OP.setsid);
  if (options.hostname && wanted.has("uts")) plan.op(OP.hostname, { subject: options.hostname });
  plan.op(OP.enterBase, { a: base, subject: "base" });
  writeTree(plan, options);
  writeSysctls(plan, options.sysctls ?? {}, wanted, "sysctls");
  lockUp(plan, target, dieWithParent);
  return plan.finish({ cloneFlags: cloneFlags(wanted), oomScoreAdj: OOM_SCORE, oomBestEffort: true });
}

function sandboxNamespaces(options: SandboxOptions): Map<NamespaceType, "new" | { path: string }> {
  const wanted = new Map<NamespaceType, "new" | { path: string }>();
  if (options.netns) wanted.set("network", { path: options.netns });
  if ((options.ipc ?? "pod") === "pod") wanted.set("ipc", "new");
  if ((options.uts ?? "pod") === "pod") wanted.set("uts", "new");
  if (options.pid === "pod") wanted.set("pid", "new");
  return wanted;
}

function writeTree(plan: PlanWriter, options: SandboxOptions): void {
  plan.op(OP.newRoot, { d: plan.list(["mode=755", "size=1m"]), subject: "/" });
  for (const directory of ["/root", "/files", "/shm", "/empty"]) mkdir(plan, directory, 0o755);
  for (const [name, content] of Object.entries(options.files ?? {})) {
    if (content === undefined) continue;
    const bytes = Buffer.from(content);
    const path = `/files/${name}`;
    plan.op(OP.writeFile, {
      c: plan.string(path),
      a: plan.blob(bytes),
      b: bytes.length,
      d: 0o644,
      subject: path,
    });
  }
  if (options.shmSize)
    plan.op(OP.mountNew, {
      a: plan.string("tmpfs"),
      b: plan.string("shm"),
      c: plan.string("/shm"),
      d: plan.list([SHM_MODE, `size=${options.shmSize}`]),
      x: ATTR.nosuid | ATTR.nodev | ATTR.noexec,
      subject: "/shm",
    });
  plan.op(OP.pivot, { subject: "/" });
  plan.op(OP.setAttr, {
    c: plan.string("/"),
    x: ATTR.rdonly | ATTR.nosuid | ATTR.nodev | ATTR.noexec,
    subject: "/",
  });
}

const mkdir = (plan: PlanWriter, path: string, mode: number): void =>
  plan.op(OP.mkdir, { c: plan.string(path), a: mode, subject: path });

function lockUp(plan: PlanWriter, target: Target, dieWithParent: boolean): void {
  const { program } = compileSeccomp(PAUSE_FILTER, target);
  plan.op(OP.chroot, { c: plan.string("/empty"), subject: "/empty" });
  plan.op(OP.noNewPrivs);
  plan.op(OP.bounding, { x: 0n });
  plan.op(OP.groups, { a: plan.blob(new Uint8Array(0)), b: 0 });
  plan.op(OP.ids, { a: NOBODY, b: NOBODY, subject: `${NOBODY}` });
  plan.op(OP.caps, { x: 0n, y: 0n, a: plan.blob(new Uint8Array(8)), b: plan.blob(new Uint8Array(8)) });
  if (dieWithParent) plan.op(OP.pdeathsig, { a: SIGKILL });
  plan.op(OP.dumpable, { a: 0 });
  plan.op(OP.pause, { a: plan.blob(program), b: program.length, subject: "sandbox" });
}
