import { constants } from "node:fs";
import { NO_SLOT, OP, OPEN, PlanWriter } from "../native";
import type { NamespaceType, Process, Spec } from "../oci/runtime-spec";
import { oomScore, type ProcessPlan, type Warn, writeProcess, writeStdio } from "./compile-process";
import { CLONE, NS_FILE, namespacePlan } from "./namespaces";
import { openStdio } from "./stdio";
import type { Target } from "./target";
import type { Stdio } from "./types";

export interface ExecPlanOptions {
  readonly containerId: string;
  readonly spec: Spec;
  readonly process: Process;
  readonly stdio: Stdio;
  /** Types of the namespaces whose fds are LaunchOptions.fds, in this order; see `execNamespaces`. */
  readonly namespaces: readonly NamespaceType[];
  /** Host path of the container's cgroup. */
  readonly cgroup: string;
  readonly target: Target;
  readonly dieWithParent: boolean;
  readonly warn: Warn;
}

const O_PATH = 0o10000000;
const { O_DIRECTORY } = constants;
const LEAVE_OWNER = 0xffffffff;

/** The container's namespaces that an exec enters: all that are not the host's, the tree last but for pid. */
export function execNamespaces(spec: Spec): NamespaceType[] {
  const wanted = namespacePlan(spec);
  const order: readonly NamespaceType[] = ["ipc", "uts", "network", "cgroup", "mount", "pid"];
  return order.filter((type) => wanted.has(type));
}

/** `/proc/<pid>/ns` names of these types. */
export const namespaceFile = (type: NamespaceType): string => NS_FILE[type];

/**
 * Joining is not creating (R4): the stub is born in the server's own pid namespace and cgroup, enters the
 * container's other namespaces, and goes on as a successor cloned into its pid namespace and cgroup.
 */
export function compileExec(options: ExecPlanOptions): Uint8Array {
  const { spec, process, target, warn } = options;
  const plan = new PlanWriter();
  const slots = new Map(
    options.namespaces.map((type, index) => [type, plan.open(OPEN.fd, { path: NS_FILE[type], a: index })]),
  );
  const cgroup = plan.open(OPEN.file, {
    path: options.cgroup,
    flags: O_PATH | O_DIRECTORY,
    a: LEAVE_OWNER,
    b: LEAVE_OWNER,
  });
  const stdio = openStdio(plan, process, options.stdio);
  for (const [type, slot] of slots)
    if (type !== "pid") plan.op(OP.setns, { a: slot, b: CLONE[type], subject: NS_FILE[type] });
  plan.op(OP.successor, { a: slots.get("pid") ?? NO_SLOT, b: cgroup, subject: "pid" });
  plan.op(OP.setsid);
  const running: ProcessPlan = {
    // An exec that names no profile must not step out of the container's.
    process: { ...process, apparmorProfile: process.apparmorProfile || spec.process?.apparmorProfile || "" },
    seccomp: spec.linux?.seccomp,
    target,
    dieWithParent: options.dieWithParent,
    stdio,
    keyring: `_ses.${options.containerId}`,
    gate: undefined,
    warn,
  };
  writeStdio(plan, running, false);
  writeProcess(plan, running, false);
  const score = { ...process, oomScoreAdj: process.oomScoreAdj ?? spec.process?.oomScoreAdj ?? 0 };
  return plan.finish({ cloneFlags: 0, ...oomScore(score, target, warn) });
}
