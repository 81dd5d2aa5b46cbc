import { invalid, unsupported } from "../base/errors";
import { NO_SLOT, OP, OPEN, PlanWriter, type Slot } from "../native";
import type { Mount } from "../oci/mount";
import type { NamespaceType, Spec } from "../oci/runtime-spec";
import { oomScore, type ProcessPlan, type Warn, writeProcess, writeStdio } from "./compile-process";
import { compileDeviceProgram } from "./device-program";
import { deviceRules, writeDevices } from "./devices";
import type { Limit } from "./limit-list";
import {
  type BaseFiles,
  hasOwnDev,
  openMaskSource,
  openMounts,
  writeMasks,
  writePodMounts,
  writeRootPropagation,
} from "./mounts";
import { CLONE, cloneFlags, type NamespacePlan, namespacePlan } from "./namespaces";
import { compileResources } from "./resources";
import { writeRoot } from "./rootfs";
import { type HandedStdio, openStdio } from "./stdio";
import { writeSysctls } from "./sysctl";
import type { Target } from "./target";
import type { Stdio } from "./types";

/**
 * OCI spec → launch plan, purely: all that it knows of the machine is the target. The stub performs the plan
 * in three phases (R8): opens on the host, then from an empty base the container's tree, then its identity.
 */
export interface ContainerPlanOptions {
  readonly id: string;
  /** Checked by `checkSpec`. */
  readonly spec: Spec;
  readonly bundle: string;
  readonly rootfs: readonly Mount[];
  readonly stdio: Stdio | HandedStdio;
  /** Path of the start gate, or its number as OPEN.fd; undefined for a container that runs at once. */
  readonly gate: string | number | undefined;
  /** What the sandbox's namespace offers; undefined with the empty base. */
  readonly base: BaseFiles | undefined;
  readonly target: Target;
  readonly dieWithParent: boolean;
  readonly warn: Warn;
}

export interface CompiledPlan {
  readonly plan: Uint8Array;
  readonly deviceProgram: Uint8Array;
  /** Strings of the plan that are this container's and not its spec's: stdin, stdout, stderr, gate, keyring. */
  readonly variables: ReturnType<PlanWriter["variables"]>;
  /** What its cgroup is given before the stub is born there. */
  readonly limits: readonly Limit[];
}

/** The session keyring of a container's processes. */
export const keyringOf = (id: string): string => `_ses.${id}`;

/** LaunchOptions.fds of a container: the mount namespace that is its base. */
const BASE_FD = 0;
const O_RDWR = 2;
const LEAVE_OWNER = 0xffffffff;

export function compileContainer(options: ContainerPlanOptions): CompiledPlan {
  const { spec, target, warn } = options;
  const process = spec.process!;
  const plan = new PlanWriter();
  const wanted = namespacePlan(spec);
  const limits = compileResources({
    field: "linux.resources",
    change: spec.linux?.resources ?? {},
    host: target,
    warn,
  });

  const joined = openNamespaces(plan, wanted);
  const tree = openTree(plan, options, wanted);
  const stdio = openStdio(plan, process, options.stdio);
  const gate = options.gate === undefined ? undefined : openGate(plan, options.gate);

  const running: ProcessPlan = {
    process,
    seccomp: spec.linux?.seccomp,
    target,
    dieWithParent: options.dieWithParent,
    stdio,
    handed: "handed" in options.stdio,
    keyring: plan.variable("keyring", keyringOf(options.id)),
    gate,
    warn,
  };
  enterNamespaces(plan, joined, wanted);
  if (spec.hostname) plan.op(OP.hostname, { subject: spec.hostname });
  if (spec.domainname) plan.op(OP.domainname, { subject: spec.domainname });
  tree.build();
  writeStdio(plan, running, tree.ownConsole);
  tree.close();
  writeSysctls(plan, spec.linux?.sysctl ?? {}, wanted, "linux.sysctl");
  tree.hide();
  writeProcess(plan, running, true);
  return {
    plan: plan.finish({ cloneFlags: cloneFlags(wanted), ...oomScore(process, target, warn) }),
    deviceProgram: deviceProgram(spec),
    limits,
    variables: plan.variables(),
  };
}

function openGate(plan: PlanWriter, gate: string | number): Slot {
  if (typeof gate === "number") return plan.open(OPEN.fd, { path: "gate", a: gate });
  const path = plan.variable("gate", gate);
  return plan.open(OPEN.file, { path, flags: O_RDWR, a: LEAVE_OWNER, b: LEAVE_OWNER });
}

/** Phase 2's work on the tree, in the four places where it has to be done. */
interface Tree {
  /** Everything up to the pivot. */
  readonly build: () => void;
  /** What had to stay writable until the console was there. */
  readonly close: () => void;
  /** Masked and read-only paths, after the sysctls were written below them. */
  readonly hide: () => void;
  readonly ownConsole: boolean;
}

function openTree(plan: PlanWriter, options: ContainerPlanOptions, wanted: NamespacePlan): Tree {
  const { spec, rootfs, bundle, base, warn } = options;
  const how = wanted.get("mount");
  if (typeof how === "object") return joinedTree(plan, options, how.path);

  const baseSlot = plan.open(OPEN.fd, { path: "base", a: BASE_FD });
  const attachRoot = writeRoot(plan, spec, rootfs, bundle);
  const mounts = openMounts(plan, spec, bundle, wanted, options.target.cgroupRoot);
  const maskSource = openMaskSource(plan, spec);
  const ownDev = hasOwnDev(spec);
  if (!ownDev && (spec.linux?.devices ?? []).length > 0)
    warn("linux.devices are not made: /dev is a bind mount", { devices: spec.linux?.devices });
  return {
    ownConsole: ownDev,
    build: () => {
      plan.op(OP.enterBase, { a: baseSlot, subject: "base" });
      attachRoot();
      mounts.attach();
      if (ownDev) writeDevices(plan, spec);
      if (base) writePodMounts(plan, spec, base);
      plan.op(OP.pivot, { subject: "/" });
    },
    close: mounts.close,
    hide: () => {
      writeMasks(plan, spec, maskSource);
      writeRootPropagation(plan, spec);
    },
  };
}

/** A mount namespace joined by path is used as it stands: nothing of it may be rearranged from here. */
function joinedTree(plan: PlanWriter, { spec, rootfs }: ContainerPlanOptions, path: string): Tree {
  const refuse = (field: string, value: unknown): void => {
    if (Array.isArray(value) ? value.length > 0 : value)
      throw unsupported(field, value, "the container joins a mount namespace, whose tree stays as it is");
  };
  refuse("mounts", spec.mounts);
  refuse("rootfs", rootfs);
  refuse("root.readonly", spec.root?.readonly);
  refuse("linux.devices", spec.linux?.devices);
  refuse("linux.maskedPaths", spec.linux?.maskedPaths);
  refuse("linux.readonlyPaths", spec.linux?.readonlyPaths);
  refuse("linux.rootfsPropagation", spec.linux?.rootfsPropagation);
  const root = spec.root?.path ?? "/";
  if (!root.startsWith("/"))
    throw invalid("root.path", root, "must be absolute: it lies in the mount namespace that is joined");
  const slot = openNamespace(plan, "mount", path);
  return {
    ownConsole: false,
    build: () => {
      plan.op(OP.setns, { a: slot, b: CLONE.mount, subject: path });
      if (root !== "/") plan.op(OP.chroot, { c: plan.string(root), subject: root });
    },
    close: () => {},
    hide: () => {},
  };
}

const openNamespace = (plan: PlanWriter, type: NamespaceType, path: string): Slot =>
  plan.open(OPEN.namespace, { path, a: CLONE[type] });

type Joined = readonly { readonly type: NamespaceType; readonly slot: Slot; readonly path: string }[];

function openNamespaces(plan: PlanWriter, wanted: NamespacePlan): Joined {
  const joined: { type: NamespaceType; slot: Slot; path: string }[] = [];
  for (const [type, how] of wanted)
    if (typeof how === "object" && type !== "mount")
      joined.push({ type, slot: openNamespace(plan, type, how.path), path: how.path });
  return joined;
}

/**
 * A joined pid namespace comes last and by a successor (R4): the stub itself never is where a stranger could
 * look into it before its exec. The cgroup was made for this container, so it is born there.
 */
function enterNamespaces(plan: PlanWriter, joined: Joined, wanted: NamespacePlan): void {
  for (const { type, slot, path } of joined)
    if (type !== "pid") plan.op(OP.setns, { a: slot, b: CLONE[type], subject: path });
  const pid = joined.find(({ type }) => type === "pid");
  if (pid) plan.op(OP.successor, { a: pid.slot, b: NO_SLOT, subject: pid.path });
  if (wanted.get("cgroup") === "new") plan.op(OP.unshare, { a: CLONE.cgroup, subject: "cgroup" });
  if (wanted.get("network") === "new") plan.op(OP.loopbackUp, { subject: "lo" });
  plan.op(OP.setsid);
}

const programs = new Map<string, Uint8Array>();
const MAX_PROGRAMS = 32;

/** Compiled once for each set of rules: most containers have the same. */
function deviceProgram(spec: Spec): Uint8Array {
  const key = JSON.stringify(spec.linux?.resources?.devices ?? []);
  let program = programs.get(key);
  if (!program) {
    program = compileDeviceProgram(deviceRules(spec));
    if (programs.size >= MAX_PROGRAMS) programs.delete(programs.keys().next().value!);
    programs.set(key, program);
  }
  return program;
}
