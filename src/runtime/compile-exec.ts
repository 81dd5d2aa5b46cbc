import { constants } from "node:fs";
import { NO_SLOT, OP, OPEN, PlanWriter, type Slot } from "../native";
import type { NamespaceType, Process, Spec } from "../oci/runtime-spec";
import { keyringOf } from "./compile";
import { oomScore, type ProcessPlan, type Warn, writeProcess, writeStdio } from "./compile-process";
import { CLONE, NS_FILE, namespacePlan } from "./namespaces";
import { type HandedStdio, openStdio } from "./stdio";
import type { Target } from "./target";
import type { Stdio } from "./types";

export interface ExecPlanOptions {
  readonly containerId: string;
  readonly spec: Spec;
  readonly process: Process;
  readonly stdio: Stdio | HandedStdio;
  /** Host path of the container's cgroup. */
  readonly cgroup: string;
  readonly target: Target;
  readonly dieWithParent: boolean;
  readonly warn: Warn;
}

const O_PATH = 0o10000000;
const { O_DIRECTORY } = constants;
const LEAVE_OWNER = 0xffffffff;

/** LaunchOptions.fds of an exec: a pidfd of the container's first process. */
const LEADER_FD = 0;
/** What an exec enters with one setns(2), as far as it is not the host's. */
const JOINED: readonly NamespaceType[] = ["ipc", "uts", "network", "mount"];

/**
 * Joining is not creating (R4): the stub is born in the server's own pid namespace and cgroup, enters the
 * container's other namespaces, and goes on as a successor cloned into its pid namespace and cgroup. All of
 * them are named by the pidfd of its first process: no pid is there to be reused, no /proc to be read.
 *
 * The cgroup namespace comes after the cgroup: where cgroup2 is mounted with `nsdelegate`, as systemd does, a
 * process may only be moved within its cgroup namespace, and the server's cgroup is not in the container's
 * (ENOENT).
 */
export function compileExec(options: ExecPlanOptions): Uint8Array {
  const { spec, process, target, warn } = options;
  const plan = new PlanWriter();
  const wanted = namespacePlan(spec);
  const joined = JOINED.filter((type) => wanted.has(type));
  const leader = (what: string): Slot => plan.open(OPEN.fd, { path: what, a: LEADER_FD });
  const names = joined.map((type) => NS_FILE[type]).join(",");
  const others = joined.length > 0 ? leader(names) : undefined;
  const pid = wanted.has("pid") ? leader("pid") : NO_SLOT;
  const cgroupNamespace = wanted.has("cgroup") ? leader("cgroup") : undefined;
  const cgroup = plan.open(OPEN.file, {
    path: options.cgroup,
    flags: O_PATH | O_DIRECTORY,
    a: LEAVE_OWNER,
    b: LEAVE_OWNER,
  });
  const stdio = openStdio(plan, process, options.stdio);
  const types = joined.reduce((flags, type) => flags | CLONE[type], 0) >>> 0;
  if (others !== undefined) plan.op(OP.setns, { a: others, b: types, subject: names });
  plan.op(OP.successor, { a: pid, b: cgroup, subject: "pid" });
  if (cgroupNamespace !== undefined)
    plan.op(OP.setns, { a: cgroupNamespace, b: CLONE.cgroup, subject: NS_FILE.cgroup });
  plan.op(OP.setsid);
  const running: ProcessPlan = {
    // An exec that names no profile must not step out of the container's.
    process: { ...process, apparmorProfile: process.apparmorProfile || spec.process?.apparmorProfile || "" },
    seccomp: spec.linux?.seccomp,
    target,
    dieWithParent: options.dieWithParent,
    stdio,
    handed: "handed" in options.stdio,
    keyring: keyringOf(options.containerId),
    gate: undefined,
    warn,
  };
  writeStdio(plan, running, false);
  writeProcess(plan, running, false);
  const score = { ...process, oomScoreAdj: process.oomScoreAdj ?? spec.process?.oomScoreAdj ?? 0 };
  return plan.finish({ cloneFlags: 0, ...oomScore(score, target, warn) });
}
