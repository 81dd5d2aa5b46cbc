import { invalid, unsupported } from "../base/errors";
import { NO_SLOT, OP, type PlanWriter, type Ref, type Slot } from "../native";
import type { Process, Seccomp } from "../oci/runtime-spec";
import { CAP_SYS_RESOURCE, type CapabilitySets, capabilitySets } from "./capabilities";
import { compileSeccomp, type SeccompProgram } from "./seccomp";
import type { Target } from "./target";

/** RLIMIT_* (asm-generic/resource.h). */
const RLIMITS: readonly string[] = [
  "CPU",
  "FSIZE",
  "DATA",
  "STACK",
  "CORE",
  "RSS",
  "NPROC",
  "NOFILE",
  "MEMLOCK",
  "AS",
  "LOCKS",
  "SIGPENDING",
  "MSGQUEUE",
  "NICE",
  "RTPRIO",
  "RTTIME",
];
const RLIM_INFINITY = 0xffffffffffffffffn;
const SIGKILL = 9;
const DEFAULT_UMASK = 0o022;

export type Warn = (message: string, fields?: Record<string, unknown>) => void;

export interface ProcessPlan {
  readonly process: Process;
  readonly seccomp: Seccomp | undefined;
  readonly target: Target;
  /** SIGKILL when the parent dies (the library's containers). */
  readonly dieWithParent: boolean;
  /** Slots of fds 0, 1, 2; absent ones are the container's own /dev/null. Unused with a terminal. */
  readonly stdio: readonly (Slot | undefined)[];
  /** They were handed over, and are not the user's yet. */
  readonly handed: boolean;
  readonly keyring: string | Ref;
  /** For a container: wait at this FIFO before the exec. An exec runs at once. */
  readonly gate: Slot | undefined;
  readonly warn: Warn;
}

/** oom_score_adj is the stub's first act (R5), so it stands in the plan's header. */
export function oomScore(
  process: Process,
  target: Target,
  warn: Warn,
): { oomScoreAdj: number; oomBestEffort: boolean } {
  const oomScoreAdj = process.oomScoreAdj ?? 0;
  const mayLower = (target.effectiveCapabilities & CAP_SYS_RESOURCE) !== 0n;
  if (!mayLower && typeof process.oomScoreAdj === "number" && oomScoreAdj < target.oomScoreAdj)
    warn("oom_score_adj stays as it is: lowering it needs CAP_SYS_RESOURCE", {
      wanted: oomScoreAdj,
      is: target.oomScoreAdj,
    });
  return { oomScoreAdj, oomBestEffort: !mayLower };
}

/** Everything of a process that precedes its identity: terminal and stdio. */
export function writeStdio(plan: PlanWriter, { process, stdio }: ProcessPlan, console: boolean): void {
  if (process.terminal) {
    const { height = 0, width = 0 } = process.consoleSize ?? {};
    plan.op(OP.console, {
      x: (BigInt(height) << 16n) | BigInt(width),
      b: console ? 1 : 0,
      subject: "/dev/pts/ptmx",
    });
  } else {
    const [a = NO_SLOT, b = NO_SLOT, c = NO_SLOT] = stdio;
    plan.op(OP.stdio, { a, b, c, subject: "stdio" });
  }
}

/**
 * Identity and the exec itself, in the order that the kernel's rules leave:
 * - without no_new_privs a seccomp filter needs CAP_SYS_ADMIN, so it comes before the capabilities go;
 *   with it, last of all, after the gate, so that it need not allow what the stub still does;
 * - groups before gid before uid: afterwards the right to change them is gone;
 * - the working directory as the user, who may or may not enter it, and checked (CVE-2024-21626);
 * - pdeathsig after the uid change, which clears it (prctl(2)).
 */
export function writeProcess(plan: PlanWriter, options: ProcessPlan, makeCwd: boolean): void {
  const { process, target, warn } = options;
  const { uid = 0, gid = 0, umask = DEFAULT_UMASK, additionalGids = [] } = process.user ?? {};
  plan.op(OP.keyring, { subject: options.keyring });
  writeApparmor(plan, options);
  writeRlimits(plan, process);
  plan.op(OP.umask, { a: umask });
  if (process.noNewPrivileges) plan.op(OP.noNewPrivs);
  else writeSeccomp(plan, options);
  const sets = capabilitySets(process.capabilities, target.effectiveCapabilities, warn);
  plan.op(OP.bounding, { x: sets.bounding, subject: "bounding" });
  // FIFOs were given to the user when they were opened; a terminal is the stub's until here, and a pipe root's.
  if (process.terminal || options.handed) plan.op(OP.chownStdio, { a: uid });
  plan.op(OP.groups, {
    a: u32Blob(plan, additionalGids),
    b: additionalGids.length,
    subject: "additionalGids",
  });
  plan.op(OP.ids, { a: uid, b: gid, subject: `${uid}:${gid}` });
  plan.op(OP.cwd, { c: plan.string(process.cwd), a: makeCwd ? 1 : 0, subject: process.cwd });
  writeCapabilities(plan, sets);
  if (options.dieWithParent) plan.op(OP.pdeathsig, { a: SIGKILL });
  const argv = plan.list(process.args ?? []);
  const envp = plan.list(environment(process.env ?? [], uid));
  const subject = process.args?.[0] ?? "";
  plan.op(OP.lookup, { a: argv, b: envp, subject });
  if (options.gate !== undefined) plan.op(OP.gate, { a: options.gate, subject: "start" });
  if (process.noNewPrivileges) writeSeccomp(plan, options);
  plan.op(OP.exec, { a: argv, b: envp, subject });
}

/** Named while the stub is still root and unfiltered; the kernel changes the profile at the exec. */
function writeApparmor(plan: PlanWriter, { process, target }: ProcessPlan): void {
  const profile = process.apparmorProfile ?? "";
  if (profile === "" || (profile === "unconfined" && !target.apparmor)) return;
  if (!target.apparmor)
    throw unsupported("process.apparmorProfile", profile, "AppArmor is not enabled on this host");
  plan.op(OP.apparmor, { subject: profile });
}

function writeRlimits(plan: PlanWriter, process: Process): void {
  for (const [i, { type, soft, hard }] of (process.rlimits ?? []).entries()) {
    const resource = type.startsWith("RLIMIT_") ? RLIMITS.indexOf(type.slice("RLIMIT_".length)) : -1;
    if (resource < 0) throw invalid(`process.rlimits[${i}].type`, type, "no such limit");
    plan.op(OP.rlimit, { a: resource, x: rlimit(soft), y: rlimit(hard), subject: type });
  }
}

/** JSON.parse rounds 2^64-1, which means "no limit", up to 2^64. */
const rlimit = (value: number | bigint): bigint => {
  const exact = BigInt(value);
  return exact > RLIM_INFINITY ? RLIM_INFINITY : exact;
};

/** By the profile's identity, as every exec of a container carries its own, and by content for the next one. */
const filters = new WeakMap<Seccomp, SeccompProgram>();
const filtersByText = new Map<string, SeccompProgram>();
const MAX_FILTERS = 32;

function writeSeccomp(plan: PlanWriter, { seccomp, target, warn }: ProcessPlan): void {
  if (!seccomp) return;
  const { program, flags } = filters.get(seccomp) ?? compiledFilter(seccomp, target, warn);
  plan.op(OP.seccomp, { a: plan.blob(program), b: program.length, c: flags, subject: "linux.seccomp" });
}

function compiledFilter(seccomp: Seccomp, target: Target, warn: Warn): SeccompProgram {
  const text = target.arch + JSON.stringify(seccomp, bigintAsText(seccomp));
  let filter = filtersByText.get(text);
  if (!filter) {
    filter = compileSeccomp(seccomp, target);
    if (filtersByText.size >= MAX_FILTERS) filtersByText.delete(filtersByText.keys().next().value!);
    filtersByText.set(text, filter);
  }
  if (filter.skipped.length > 0)
    warn("linux.seccomp: rules for unknown system calls do nothing", { names: filter.skipped });
  filters.set(seccomp, filter);
  return filter;
}

/** JSON.stringify is three times as quick without a replacer, and only a caller's own object has bigints. */
function bigintAsText(seccomp: Seccomp): ((key: string, value: unknown) => unknown) | undefined {
  const has = seccomp.syscalls?.some(({ args }) =>
    args?.some(({ value, valueTwo }) => typeof value === "bigint" || typeof valueTwo === "bigint"),
  );
  return has ? (_key, value) => (typeof value === "bigint" ? `${value}n` : value) : undefined;
}

function writeCapabilities(plan: PlanWriter, sets: CapabilitySets): void {
  plan.op(OP.caps, {
    x: sets.effective,
    y: sets.permitted,
    a: u64Blob(plan, sets.inheritable),
    b: u64Blob(plan, sets.ambient),
    subject: "capabilities",
  });
}

/** The last of several settings of a name wins; HOME is set if the spec does not. */
export function environment(env: readonly string[], uid: number): string[] {
  const values = new Map<string, string>();
  for (const entry of env) values.set(entry.slice(0, entry.indexOf("=")), entry);
  if (!values.has("HOME")) values.set("HOME", uid === 0 ? "HOME=/root" : "HOME=/");
  return [...values.values()];
}

function u32Blob(plan: PlanWriter, values: readonly number[]): Ref {
  const blob = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) blob.writeUInt32LE(value, 4 * i);
  return plan.blob(blob);
}

function u64Blob(plan: PlanWriter, value: bigint): Ref {
  const blob = Buffer.alloc(8);
  blob.writeBigUInt64LE(value);
  return plan.blob(blob);
}
