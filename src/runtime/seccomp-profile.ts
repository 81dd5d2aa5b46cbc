import { invalid, unsupported } from "../base/errors";
import type { Seccomp, SeccompArg, SeccompRule } from "../oci/runtime-spec";

/**
 * Reads `linux.seccomp` of a runtime spec: every word is checked here, so that the compiler behind it
 * works on numbers only. What a profile means where the specification is silent is what libseccomp makes of
 * it, as runc and crun use that; the comments name those places.
 */
export type Comparison = "NE" | "LT" | "LE" | "EQ" | "GE" | "GT" | "MASKED_EQ";

export interface Condition {
  readonly arg: number;
  readonly op: Comparison;
  readonly value: bigint;
  /** MASKED_EQ only; all ones otherwise. */
  readonly mask: bigint;
}

/**
 * What to do with one call: `always` if set; else the first entry of `when` that holds (all its conditions
 * do); else the filter's default.
 */
export interface Verdict {
  always?: number;
  readonly when: { readonly conditions: readonly Condition[]; readonly action: number }[];
}

export interface Profile {
  readonly defaultAction: number;
  /** In the order in which the profile names them. */
  readonly calls: ReadonlyMap<string, Verdict>;
  /** SCMP_ARCH_ words without the prefix; the native one need not be among them. */
  readonly architectures: ReadonlySet<string>;
  readonly flags: number;
}

/** SECCOMP_RET_*: the upper half of a filter's return value, ordered from strictest to mildest as int32. */
export const RET = {
  killProcess: 0x80000000,
  killThread: 0x00000000,
  trap: 0x00030000,
  errno: 0x00050000,
  trace: 0x7ff00000,
  log: 0x7ffc0000,
  allow: 0x7fff0000,
} as const;

export const EPERM = 1;
export const ENOSYS = 38;
/** The kernel cuts larger ones down to it. */
const MAX_ERRNO = 4095;
const MAX_TRACE = 0xffff;
const MAX_ARGS = 6;
const ALL_ONES = 0xffffffffffffffffn;

const ACTIONS: ReadonlyMap<string, number> = new Map([
  ["SCMP_ACT_KILL", RET.killThread],
  ["SCMP_ACT_KILL_THREAD", RET.killThread],
  ["SCMP_ACT_KILL_PROCESS", RET.killProcess],
  ["SCMP_ACT_TRAP", RET.trap],
  ["SCMP_ACT_ERRNO", RET.errno],
  ["SCMP_ACT_TRACE", RET.trace],
  ["SCMP_ACT_LOG", RET.log],
  ["SCMP_ACT_ALLOW", RET.allow],
]);

const COMPARISONS: ReadonlyMap<string, Comparison> = new Map(
  (["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] as const).map((op) => [`SCMP_CMP_${op}`, op]),
);

const ARCHITECTURES = new Set(
  (
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE " +
    "S390 S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
  ).split(" "),
);

const FLAGS: ReadonlyMap<string, number> = new Map([
  ["SECCOMP_FILTER_FLAG_TSYNC", 1],
  ["SECCOMP_FILTER_FLAG_LOG", 2],
  ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4],
  // seccomp(2) refuses WAIT_KILLABLE_RECV (32) without a listener, and it says how notifications are
  // received: with no NOTIFY in the profile there is nothing that it could change.
  ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 0],
]);

const field = (name: string): string => `linux.seccomp.${name}`;

/** Throws INVALID_ARGUMENT or UNIMPLEMENTED naming the field and its value. */
export function readProfile(seccomp: Seccomp): Profile {
  if (seccomp.listenerPath) throw unsupported(field("listenerPath"), seccomp.listenerPath);
  if (seccomp.listenerMetadata) throw unsupported(field("listenerMetadata"), seccomp.listenerMetadata);
  const defaultAction = readAction(
    "defaultAction",
    seccomp.defaultAction,
    "defaultErrnoRet",
    seccomp.defaultErrnoRet,
  );
  const calls = new Map<string, Verdict>();
  for (const [index, rule] of (seccomp.syscalls ?? []).entries()) {
    addRule(calls, rule, `syscalls[${index}]`, defaultAction);
  }
  return {
    defaultAction,
    calls,
    architectures: new Set((seccomp.architectures ?? []).map(readArchitecture)),
    flags: (seccomp.flags ?? []).reduce((all, flag, index) => all | readFlag(flag, index), 0),
  };
}

function addRule(calls: Map<string, Verdict>, rule: SeccompRule, at: string, defaultAction: number): void {
  if (!rule.names?.length) throw invalid(field(`${at}.names`), rule.names ?? null, "names no system call");
  const action = readAction(`${at}.action`, rule.action, `${at}.errnoRet`, rule.errnoRet);
  const alternatives = readConditions(rule.args ?? [], at);
  for (const [index, name] of rule.names.entries()) {
    if (!name) throw invalid(field(`${at}.names[${index}]`), name, "empty");
    const verdict: Verdict = calls.get(name) ?? { when: [] };
    calls.set(name, verdict);
    // A rule that repeats the default decides nothing, and does not stop a later one.
    if (action === defaultAction) continue;
    for (const conditions of alternatives) {
      if (conditions.length > 0) verdict.when.push({ conditions, action });
      // libseccomp: a rule without conditions takes the place of those with, and the first of several counts.
      else verdict.always ??= action;
    }
  }
}

/**
 * A rule's conditions, all of which must hold; `[]` always holds. Two conditions on the same argument turn
 * the rule into one rule per condition: that is what runc does, and profiles rely on it.
 */
function readConditions(args: readonly SeccompArg[], at: string): readonly (readonly Condition[])[] {
  const conditions = args.map((arg, index) => readCondition(arg, `${at}.args[${index}]`));
  const distinct = new Set(conditions.map(({ arg }) => arg)).size;
  const alternatives = distinct < conditions.length ? conditions.map((one) => [one]) : [conditions];
  // `arg & 0 == 0` is no condition at all.
  return alternatives.map((all) => all.filter(({ mask }) => mask !== 0n));
}

function readCondition(arg: SeccompArg, at: string): Condition {
  if (!Number.isInteger(arg.index) || arg.index < 0 || arg.index >= MAX_ARGS) {
    throw invalid(field(`${at}.index`), arg.index, "not an argument, 0 to 5");
  }
  const op = COMPARISONS.get(arg.op);
  if (!op) throw invalid(field(`${at}.op`), arg.op, `not one of ${[...COMPARISONS.keys()].join(", ")}`);
  const value = readWord(arg.value, `${at}.value`);
  if (op !== "MASKED_EQ") return { arg: arg.index, op, value, mask: ALL_ONES };
  // libseccomp masks the wanted value too: bits outside the mask are not compared.
  const wanted = readWord(arg.valueTwo ?? 0, `${at}.valueTwo`);
  return { arg: arg.index, op, value: wanted & value, mask: value };
}

function readWord(value: number | bigint, at: string): bigint {
  if (typeof value !== "bigint" && !Number.isSafeInteger(value)) {
    throw invalid(field(at), value, "not an integer that a number holds exactly; pass a bigint");
  }
  const word = BigInt(value);
  if (word < 0n || word > ALL_ONES) throw invalid(field(at), value, "not an unsigned 64-bit integer");
  return word;
}

function readAction(at: string, word: string, errnoAt: string, errnoRet: number | undefined): number {
  if (word === "SCMP_ACT_NOTIFY") throw unsupported(field(at), word);
  const action = ACTIONS.get(word);
  if (action === undefined) {
    throw invalid(field(at), word ?? null, `not one of ${[...ACTIONS.keys()].join(", ")}`);
  }
  const carries = action === RET.errno || action === RET.trace;
  if (!carries && errnoRet) throw invalid(field(errnoAt), errnoRet, `${word} returns no error number`);
  const data = errnoRet ?? EPERM;
  const max = action === RET.errno ? MAX_ERRNO : MAX_TRACE;
  if (carries && (!Number.isInteger(data) || data < 0 || data > max)) {
    throw invalid(field(errnoAt), errnoRet, `not an integer from 0 to ${max}`);
  }
  return carries ? action + data : action;
}

function readArchitecture(word: string, index: number): string {
  const name = typeof word === "string" && word.startsWith("SCMP_ARCH_") ? word.slice(10) : "";
  if (!ARCHITECTURES.has(name)) throw invalid(field(`architectures[${index}]`), word, "unknown");
  return name;
}

function readFlag(word: string, index: number): number {
  const flag = FLAGS.get(word);
  if (flag === undefined) throw invalid(field(`flags[${index}]`), word, "unknown");
  return flag;
}
